"""Models of Hugging Face's transformers, built from a configuration's folder with new weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from headstart.errors import HeadstartError, ModelError, needs_extra

CONFIG = "config.json"


def is_config_folder(name: str) -> bool:
    """Tell whether a name is a folder with a ``config.json``.

    Example:
        >>> is_config_folder("timm:resnet18")
        False
    """
    return (Path(name).expanduser() / CONFIG).is_file()


def fingerprint(folder: str) -> str:
    """Hash the configuration."""
    return hashlib.sha256((Path(folder).expanduser() / CONFIG).read_bytes()).hexdigest()


def build_from_config(folder: str, changes: dict[str, Any] | None = None) -> nn.Module:
    """Build the model that a folder's ``config.json`` describes, with weights drawn from torch's random state.

    Nothing is downloaded, no weights are loaded, and no code of the folder is run.

    Args:
        folder: Holds ``config.json``, as ``save_pretrained`` writes it.
        changes: Configuration values to replace, such as ``num_labels``.

    Returns:
        The architecture that the configuration names first; the plain ``AutoModel`` if it names none.

    Raises:
        HeadstartError: The folder has no such file, it cannot be read, or the model cannot be built.
        MissingExtraError: If transformers is not installed.
    """
    transformers = host()
    place = Path(folder).expanduser()
    if not (place / CONFIG).is_file():
        raise HeadstartError(f"There is no '{place / CONFIG}'.", remedy="Give a folder that save_pretrained wrote.")
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(place), local_files_only=True, trust_remote_code=False, **(changes or {})
        )
        named = next(iter(getattr(config, "architectures", None) or ()), None)
        if named is None:
            model = transformers.AutoModel.from_config(config, trust_remote_code=False)
        else:
            model = getattr(transformers, named)(config)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"'{place / CONFIG}' describes no model: {type(error).__name__}: {reason}.") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"'{place / CONFIG}' describes a {type(model).__name__}, not a torch.nn.Module.")
    return model


def host() -> Any:
    """Return the package transformers.

    Raises:
        MissingExtraError: If it is not installed.
    """
    with needs_extra(package="transformers", extra="hf", what="A model of Hugging Face"):
        import transformers
    return transformers
