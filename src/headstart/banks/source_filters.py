"""The sources of filters: convolutions of modules, state dicts, files and folders, one source at a time."""

from __future__ import annotations

import copy
import fnmatch
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from headstart.errors import HeadstartError, ModelError, unknown
from headstart.model import checkpoints, guard, weights
from headstart.model.weights import weight_layers

Model = nn.Module | Mapping[str, Tensor] | str | Path
Names = str | Sequence[str] | None

SUFFIXES = (checkpoints.SAFETENSORS, ".pt", ".pth", ".bin")
_NORMED = {  # the two forms in which weight norm stores a length and a direction
    "weight_v": "weight_g",
    "parametrizations.weight.original1": "parametrizations.weight.original0",
}
_OTHERS = ("weight_orig", "parametrizations.weight.original")


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of a source whose kernel has more than one tap.

    Attributes:
        name: Qualified name of the layer.
        weight: ``(out, in/groups, *kernel)``; read-only.
        depthwise: Whether each input channel has its own filters.
        depth: Relative position among the source's convolutions of more than one tap: 0 the first, 1 the last.
    """

    name: str
    weight: Tensor
    depthwise: bool
    depth: float

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size."""
        return tuple(self.weight.shape[2:])


def each_source(models: Iterable[Model] | Model) -> Iterator[tuple[str, list[Convolution]]]:
    """Read sources one after the other; only one is in memory at a time.

    Args:
        models: Modules, state dicts, files, folders of files, or a mixture; also a generator of them, or a
            single one.

    Yields:
        A name for messages, and the source's convolutions in order.

    Raises:
        HeadstartError: A source cannot be read, or there is none.
    """
    number = 0
    for model in [models] if isinstance(models, (nn.Module, Mapping, str, Path)) else models:
        if isinstance(model, (str, Path)):
            for path in _files(Path(model)):
                found, metadata = checkpoints.read_checkpoint(path)
                if metadata.get("format") == "headstart-bank-1":
                    raise HeadstartError(
                        f"'{path}' is a filter bank, not weights.", remedy="FilterBank.merge joins banks."
                    )
                yield f"'{path}'", _of_state(checkpoints.state_dict(found, path)[0], f"'{path}'")
                del found
        elif isinstance(model, nn.Module):
            yield f"models[{number}] ({type(model).__name__})", _of_module(model, f"models[{number}]")
        elif isinstance(model, Mapping):
            yield f"models[{number}]", _of_state(model, f"models[{number}]")
        else:
            raise HeadstartError(
                f"models[{number}] is a {type(model).__name__}.",
                remedy="A source is a module, a state_dict, a file or a folder.",
            )
        number += 1
        del model  # before the next one is made
    if number == 0:
        raise HeadstartError("There are no models to make a filter bank from.", remedy="Pass at least one.")


def require_known(include: Names, exclude: Names, names: Iterable[str], where: str) -> None:
    """Raise if a pattern matches no layer.

    Raises:
        UnknownNameError: It lists the nearest layer names.
    """
    known = list(names)
    for pattern in [*_patterns(include), *_patterns(exclude)]:
        if not any(matches(pattern, name) for name in known):
            raise unknown(f"convolution of {where} that matches", pattern, known)


def chosen(convolutions: Sequence[Convolution], include: Names, exclude: Names, label: str) -> list[Convolution]:
    """Select convolutions by name: globs, or blocks that hold layers.

    Raises:
        HeadstartError: No convolution is left, or a weight is not finite.
    """
    found = [c for c in convolutions if include is None or any(matches(p, c.name) for p in _patterns(include))]
    found = [c for c in found if not any(matches(p, c.name) for p in _patterns(exclude))]
    if not convolutions:
        raise HeadstartError(
            f"{label} has no convolution with a kernel of more than one tap.",
            remedy="1×1 convolutions and linear layers have no slices to cluster.",
        )
    if not found:
        raise HeadstartError(
            f"include={include!r} and exclude={exclude!r} leave no convolution of {label}.",
            remedy=f"It has {', '.join(c.name for c in convolutions[:10])}{', ...' * (len(convolutions) > 10)}.",
        )
    for c in found:
        if c.weight.numel() == 0 or not c.weight.is_floating_point():
            raise HeadstartError(f"Layer '{c.name}' of {label} holds {c.weight.dtype} of {tuple(c.weight.shape)}.")
        bad = int((~torch.isfinite(c.weight)).sum())
        if bad:
            raise HeadstartError(
                f"Layer '{c.name}' of {label} has {bad} weights that are not finite.",
                remedy=f"Leave it out with exclude='{c.name}', or leave out the source.",
            )
    return found


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern selects a layer: a glob over its name, or the name of a block that holds it."""
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern + ".")


def _patterns(names: Names) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not found:
        raise HeadstartError(f"The folder '{path}' has no weights.", remedy=f"They end in {', '.join(SUFFIXES)}.")
    return found


def _of_module(model: nn.Module, label: str) -> list[Convolution]:
    model = guard.unwrap(model)
    guard.check(model)
    if guard.is_lazy(model):
        raise ModelError(f"{label} is a lazy {type(model).__name__}.", remedy="Run it once to give it its weights.")
    layers = [layer for layer in weight_layers(model) if math.prod(layer.kernel) > 1]
    last = max(1, len(layers) - 1)
    found = []
    for place, layer in enumerate(layers):
        if parametrize.is_parametrized(layer.module, "weight"):  # reading may update it, as spectral norm does
            layer = weights.Layer(layer.name, copy.deepcopy(layer.module).eval())
        depthwise = layer.groups > 1 and layer.in_channels == layer.groups
        found.append(Convolution(layer.name, weights.look(layer), depthwise, place / last))
    return found


def _of_state(state: Mapping[str, Tensor], label: str) -> list[Convolution]:
    """The convolutions of a state dict, recognized by shapes, names and order, since it has no layer types."""
    named = [(name, w) for name, w in _weights(state, label) if 3 <= w.dim() <= 5]
    keys = [key for key, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()]
    if keys == sorted(keys):
        named = _unsorted(named)
    spatial = [(name, w) for name, w in named if math.prod(w.shape[2:]) > 1]
    last = max(1, len(spatial) - 1)
    first = named[0][0] if named else ""
    return [
        # One input per filter: depthwise, unless it comes first and so sees the net's only input channel.
        Convolution(name, w, w.shape[1] == 1 and w.shape[0] > 1 and name != first, place / last)
        for place, (name, w) in enumerate(spatial)
    ]


def _weights(state: Mapping[str, Tensor], label: str) -> Iterator[tuple[str, Tensor]]:
    """Effective weights by layer name; weight norm is applied."""
    for key, value in state.items():
        if not isinstance(value, Tensor):
            continue
        for form in ("weight", *_NORMED, *_OTHERS):
            if key != form and not key.endswith(f".{form}"):
                continue
            stem = key.removesuffix(form)
            name = stem.removesuffix(".")
            if form in _OTHERS and 3 <= value.dim() <= 5:
                raise HeadstartError(
                    f"Layer '{name}' of {label} is parametrized ('{key}'): its weight is not in the state_dict.",
                    remedy="Pass the module instead.",
                )
            if form == "weight":
                yield name, value
            elif form in _NORMED and f"{stem}{_NORMED[form]}" in state:
                length = state[f"{stem}{_NORMED[form]}"]
                axes = [axis for axis in range(value.dim()) if length.dim() == value.dim() and length.shape[axis] == 1]
                yield name, value * (length / torch.linalg.vector_norm(value, dim=axes or None, keepdim=bool(axes)))
            break


def _unsorted(named: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Put alphabetical names, as in safetensors files, into a plausible order of layers.

    Numbers are sorted as numbers. The stem comes first: the least nested convolution of more than one tap.
    """

    def natural(name: str) -> list[int | str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]

    ordered = sorted(named, key=lambda item: natural(item[0]))
    spatial = [item for item in ordered if math.prod(item[1].shape[2:]) > 1]
    stem = min(spatial, key=lambda item: item[0].count("."), default=None)
    return ordered if stem is None else [stem, *(item for item in ordered if item is not stem)]
