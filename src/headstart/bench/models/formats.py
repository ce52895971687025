"""The file formats of a start, each for a host's own option."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from headstart.errors import HeadstartError
from headstart.model import checkpoints

_TORCH = (".pt", ".pth")


@dataclass(frozen=True)
class Format:
    """A file format of a start.

    Args:
        suffixes: The possible endings, the usual one first; none for a folder.
        loaded_by: The host's own option or call, with ``{out}`` for the file.
        under: The key that holds the ``state_dict``, if the host looks for one.
    """

    suffixes: tuple[str, ...]
    loaded_by: str
    under: str = ""


FORMATS: Mapping[str, Format] = {
    "torch": Format(_TORCH, "model.load_state_dict(torch.load('{out}', weights_only=True))"),
    "safetensors": Format((".safetensors",), "model.load_state_dict(safetensors.torch.load_file('{out}'))"),
    "timm": Format((".safetensors", *_TORCH), "timm: --initial-checkpoint {out}"),
    "nnunet": Format(_TORCH, "nnU-Net: nnUNetv2_train ... -pretrained_weights {out}", under="network_weights"),
    "hf": Format((), "transformers: AutoModel.from_pretrained('{out}'), or --model_name_or_path {out}"),
}


def save(model: nn.Module, out: Path, name: str | None, provenance: dict[str, Any], source: str) -> str:
    """Write the start.

    Args:
        model: The initialized model.
        out: The file or folder.
        name: The format; None for that of the file's ending.
        provenance: Metadata for safetensors files.
        source: The model's name; the other files of a configuration's folder are copied.

    Returns:
        How the host loads it, if the format was named.

    Raises:
        HeadstartError: It cannot be written.
    """
    if name == "hf":
        _save_folder(model, out, source)
    else:
        checkpoints.save_model(model, out, provenance, FORMATS[name].under if name else "")
    return f"Load it: {FORMATS[name].loaded_by.format(out=out)}" if name else ""


def _save_folder(model: nn.Module, out: Path, source: str) -> None:
    write: Any = getattr(model, "save_pretrained", None)
    if write is None:
        raise HeadstartError(
            f"A {type(model).__name__} is not a model of Hugging Face, so it cannot be written as one.",
            remedy="Pass the folder of its config.json as MODEL, or another --format.",
        )
    with tempfile.TemporaryDirectory(prefix=".headstart-", dir=out.absolute().parent) as place:
        made = Path(place, "made")
        write(str(made))
        if (given := Path(source).expanduser()).is_dir():  # the tokenizer, how images are prepared
            for path in given.iterdir():
                beside = path.suffix in (".json", ".txt", ".model") and not path.name.endswith(".index.json")
                if beside and path.is_file() and not (made / path.name).exists():
                    shutil.copy2(path, made / path.name)
        if out.is_dir():
            out.replace(Path(place, "before"))
        made.replace(out)
