"""Stages of a start by training: what each one trains on, and a file from which an interrupted start resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from headstart.errors import HeadstartError
from headstart.fitting import samples
from headstart.model import checkpoints

_FORMAT = "headstart-stages-1"


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        number: Its number, from 1.
        of: How many there are.
        share: The share of the data.
        indices: The sample.
        epochs: Passes over it.
    """

    number: int
    of: int
    share: float
    indices: Tensor = field(repr=False)
    epochs: int

    def steps(self, batch_size: int) -> int:
        """Count its optimizer steps.

        Example:
            >>> Stage(1, 1, 0.1, torch.arange(100), 3).steps(64)
            6
        """
        return self.epochs * samples.steps(len(self.indices), batch_size)

    def __str__(self) -> str:
        return f"stage {self.number} of {self.of} ({len(self.indices)} samples, {self.epochs} epochs)"


def require_finite(model: nn.Module, when: str) -> None:
    """Raise if a parameter or buffer holds NaN or infinite values.

    Raises:
        HeadstartError: It names the tensor.
    """
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise HeadstartError(
                f"{when}, '{name}' is not finite; nothing was changed.",
                remedy="Pass a smaller lr, or normalize the inputs.",
            )


class Checkpoint:
    """The model after the last finished stage, in a file; or nothing, without a path.

    Args:
        path: A ``.safetensors`` file, or None.
        model: The model before the first stage.
        work: Everything besides the model's state that determines the result.

    Raises:
        HeadstartError: The path has another ending, or its folder does not exist.
    """

    def __init__(self, path: str | None, model: nn.Module, work: Sequence[str]) -> None:
        self._path = None if path is None else Path(path)
        self._model = model
        if self._path is None:
            return
        if self._path.suffix != ".safetensors" or not self._path.parent.is_dir():
            raise HeadstartError(
                f"checkpoint='{path}' cannot be written.",
                remedy="Pass FOLDER/NAME.safetensors in a folder that exists.",
            )
        digest = hashlib.sha256(repr(list(work)).encode())
        for name, value in self._tensors().items():
            digest.update(name.encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        self._key = digest.hexdigest()

    def resume(self) -> int:
        """Load the file if it exists, and return the number of finished stages.

        Raises:
            HeadstartError: The file is of another call, or damaged.
        """
        if self._path is None or not self._path.exists():
            return 0
        try:
            with safe_open(str(self._path), framework="pt") as file:
                facts = file.metadata() or {}
                if facts.get("format") != _FORMAT or facts.get("key") != self._key:
                    raise HeadstartError(
                        f"'{self._path}' holds the stages of another call (model, data, options or seed differ).",
                        remedy="Remove it, or pass another checkpoint=.",
                    )
                found = load_file(self._path)
        except (SafetensorError, OSError) as error:
            raise HeadstartError(
                f"'{self._path}' is not a readable checkpoint: {error}.", remedy="Remove it."
            ) from error
        own = dict([*self._model.named_parameters(), *self._model.named_buffers()])
        with torch.no_grad():
            for name, value in found.items():
                own[name].copy_(value)
        return int(facts["done"])

    def save(self, done: int) -> None:
        """Write the model after a stage; the file appears complete or not at all."""
        if self._path is None:
            return
        facts = {"format": _FORMAT, "key": self._key, "done": str(done)}
        checkpoints.write(self._path, {name: value.clone() for name, value in self._tensors().items()}, facts)

    def remove(self) -> None:
        """Remove the file when all stages are done."""
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                raise HeadstartError(f"'{self._path}' cannot be removed: {error}.") from error

    def _tensors(self) -> dict[str, Tensor]:
        named = [*self._model.named_parameters(), *self._model.named_buffers()]
        return {name: value.detach().cpu().contiguous() for name, value in named}
