"""Trained weights: a model, a ``state_dict`` or a file. Files are read without running code, and written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headstart.errors import HeadstartError
from headstart.model.weights import Layer, is_plain, to_canonical, weight_layers, working_dtype
from headstart.results.whole_file import whole_file

SAFETENSORS = ".safetensors"
_NESTED = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")


def read_checkpoint(path: Path) -> tuple[Any, Mapping[str, str]]:
    """Read what a checkpoint holds: tensors in containers, and no code.

    Args:
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.

    Returns:
        What it holds, on the CPU, and the metadata of a safetensors file.

    Raises:
        HeadstartError: There is no such file, it is damaged, or it holds other objects.
    """
    if not path.is_file():
        raise HeadstartError(f"There is no checkpoint '{path}'.", remedy="Check the path.")
    if path.suffix == SAFETENSORS:
        try:
            with safe_open(str(path), framework="pt") as file:
                return load_file(path), file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise HeadstartError(f"'{path}' is not a readable safetensors file: {error}.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:
        raise HeadstartError(
            f"The checkpoint '{path}' was refused: it is damaged, or holds more than tensors, and loading"
            f" such a file can run code ({type(error).__name__}).",
            remedy="Save its state_dict, best as safetensors.",
        ) from error


def state_dict(found: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """Find the ``state_dict`` in what a checkpoint holds.

    Args:
        found: Content of the file.
        path: Names it in errors.

    Returns:
        Tensors by name, without the prefix of a data-parallel wrapper, and a note on where they were found.

    Raises:
        HeadstartError: There is none.
    """
    note = ""
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found, note = found[key], f" under '{key}'"
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise HeadstartError(f"'{path}' holds no state_dict.", remedy="Save model.state_dict().")
    if all(str(k).startswith("module.") for k in found):
        return {str(k).removeprefix("module."): v for k, v in found.items()}, f"{note}, without the prefix 'module.'"
    return {str(k): v for k, v in found.items()}, note


def write(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write tensors: as safetensors with metadata if the name ends so, else as a file for ``torch.load``.

    The file appears complete or not at all.

    Args:
        path: The file to write.
        tensors: Contiguous tensors on the CPU that do not share memory.
        metadata: Metadata for a safetensors file.

    Raises:
        HeadstartError: It cannot be written there.
    """
    try:
        with whole_file(path) as part:
            if path.suffix == SAFETENSORS:
                save_file(dict(tensors), str(part), metadata=dict(metadata))
            else:
                with part.open("wb") as file:  # by its path, torch would write the path's name into the file
                    torch.save(dict(tensors), file)
    except (OSError, SafetensorError) as error:
        raise HeadstartError(f"'{path}' cannot be written: {getattr(error, 'strerror', None) or error}.") from error


def save_model(model: nn.Module, path: Path, provenance: dict[str, Any], under: str = "") -> None:
    """Write the model's ``state_dict``: safetensors with provenance in its metadata, or ``.pt``.

    The file appears complete or not at all. Tied weights are written under each of their names.

    Args:
        model: The model to save.
        path: The file to write.
        provenance: Metadata for a safetensors file.
        under: Key under which the file holds the ``state_dict``, in formats other than safetensors; none by default.

    Raises:
        HeadstartError: It cannot be written there, or holds more than tensors.
    """
    state: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise HeadstartError(
                f"'{name}' of the model's state_dict is a {type(value).__name__}, not a tensor.",
                remedy="A start holds tensors only: keep such a state out of get_extra_state.",
            )
        tensor = value.detach().cpu().contiguous()
        shared = tensor.untyped_storage().data_ptr() in places
        places.add(tensor.untyped_storage().data_ptr())
        state[name] = tensor.clone() if shared else tensor
    write(path, {under: state} if under else state, {"format": "pt", "headstart": json.dumps(provenance)})


@dataclass(frozen=True, repr=False)
class Source:
    """Trained weights, read when they are needed.

    Args:
        given: A model, a ``state_dict``, a path (``.safetensors``, or what ``torch.load(weights_only=True)`` reads),
            or a function that takes the model to write and returns one of those.
    """

    given: Any

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors by name, without the prefixes of data-parallel and compiled wrappers.

        Args:
            model: The model that will be written.

        Raises:
            HeadstartError: No such file, a damaged one, or something else than named tensors.
        """
        return _unwrapped(_opened(self.given, model))

    @property
    def fingerprint(self) -> str:
        """A short hash of all values; for a function, its name."""
        if callable(self.given) and not isinstance(self.given, nn.Module):
            return repr(self)
        digest = hashlib.sha256()
        for name, value in sorted(self.state(nn.Module()).items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        if isinstance(self.given, (str, Path)):
            return repr(str(self.given))
        if isinstance(self.given, nn.Module):
            return f"<{type(self.given).__name__} of {sum(p.numel() for p in self.given.parameters()):,} parameters>"
        if isinstance(self.given, Mapping):
            return f"<state_dict of {len(self.given)} tensors>"
        return f"<{getattr(self.given, '__name__', type(self.given).__name__)}>"


def source_of(given: Any) -> Source:
    """Wrap what the user gave as a source.

    Raises:
        HeadstartError: Weights cannot be read from it.
    """
    if isinstance(given, Source):
        return given
    if not (isinstance(given, (nn.Module, Mapping, str, Path)) or callable(given)):
        raise HeadstartError(
            f"{given!r} is no source of weights.", remedy="Pass a model, a state_dict, or the path of a file."
        )
    return Source(given)


def weight_in(state: Mapping[str, Tensor], layer: Layer) -> Tensor | None:
    """A layer's weight among named tensors, in working precision, laid out as stored; None if it is not there.

    For attention's packed projections and for gates, it is the layer's block of the parameter.
    """
    value = state.get(layer.key())
    if value is None or not value.is_floating_point() or value.dim() != len(layer.shape) + (layer.form == "pairs"):
        return None
    own = layer.own_of(value)
    return None if own is None else own.detach().to(working_dtype(value.dtype))


def bias_in(state: Mapping[str, Tensor], layer: Layer) -> Tensor | None:
    """A layer's bias among named tensors; None if it is not there."""
    value = state.get(layer.key("bias"))
    own = None if value is None or value.dim() != 1 else layer.own_of(value, "bias")
    return None if own is None else own.detach().to(working_dtype(own.dtype))


def canonical_in(state: Mapping[str, Tensor], layer: Layer) -> Tensor | None:
    """A layer's weight among named tensors, canonical; None if it is not there, or not of the layer's shape."""
    value = weight_in(state, layer)
    if value is None or value.shape != layer.stored.shape:
        return None
    return to_canonical(layer, value)


def _opened(given: Any, model: nn.Module) -> dict[str, Tensor]:
    if isinstance(given, nn.Module):
        plain = getattr(given, "_orig_mod", given)
        made = {la.key(): la.module.weight.detach() for la in weight_layers(plain) if not is_plain(la)}
        return {**plain.state_dict(), **made}
    if isinstance(given, Mapping):
        return state_dict(given, Path("the mapping"))[0]
    if isinstance(given, (str, Path)):
        path = Path(given)
        return state_dict(read_checkpoint(path)[0], path)[0]
    found = given(model)
    if callable(found) and not isinstance(found, nn.Module):
        raise HeadstartError(f"{Source(given)!r} returned a function.", remedy="Return a model or its state_dict.")
    return _opened(source_of(found).given, model)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while state and (prefix := next((w for w in _WRAPPERS if all(k.startswith(w) for k in state)), None)):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
