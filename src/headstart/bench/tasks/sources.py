"""Data for ``init`` and ``diagnose``: a task's images, arrays from files, a folder of images, the user's function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart import rng
from headstart.errors import DataError, HeadstartError, needs_extra, unknown
from headstart.model import inputs

SAMPLES = 1024  # what hs.initialize takes of a tensor; no more is decoded and converted
_ARRAYS = (".npy", ".npz", ".pt", ".pth", ".safetensors")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_LABELS = ("labels", "label", "targets", "target", "y")
_INPUTS = ("images", "inputs", "input", "data", "x")


@dataclass
class Source:
    """Data for ``hs.initialize``, with the facts that a model needs.

    Attributes:
        value: A tensor, a tuple, a dict, or whatever the user's function returned.
        notes: What was done to the data.
        channels: Channels of images; None for other data.
        image_size: Height and width of images; None for other data.
        classes: Number of classes; None without labels.
    """

    value: Any
    notes: list[str] = field(default_factory=list)
    channels: int | None = None
    image_size: tuple[int, int] | None = None
    classes: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that a model's builder may ask for; None if the data do not show them."""
        return {"in_channels": self.channels, "classes": self.classes, "image_size": self.image_size}


def load_data(
    spec: str, *, seed: int = 0, samples: int | None = None, raw: bool = False, resize: int | None = None
) -> Source:
    """Load the data of ``--data``.

    Args:
        spec: A task of the benchmark (``mnist5k``, a folder of its arrays), a ``.npy``, ``.npz``, ``.pt`` or
            ``.safetensors`` file, a folder of images, or ``file.py:function``.
        seed: The seed of the draw, if there are more samples than needed.
        samples: How many samples are needed; default at most 1,024.
        raw: Leave bytes as they are; by default uint8 images are scaled to [0, 1] and standardized.
        resize: Side to which images of a folder are resized and cropped.

    Returns:
        The data.

    Raises:
        HeadstartError: There is no such data, or it cannot be read.
    """
    from headstart.bench.specs import user_function
    from headstart.bench.tasks.data.catalogue import DATASETS
    from headstart.bench.tasks.datasets import holds_datasets, training_part
    from headstart.bench.tasks.loading import is_task, load_task
    from headstart.bench.tasks.task import Task
    from headstart.fitting.samples import labels

    for option, number in (("--samples", samples), ("--resize", resize)):
        if number is not None and number < 1:
            raise DataError(f"{option} {number} is not positive.", remedy="Pass at least 1.")
    limit = samples or SAMPLES
    path = Path(spec)
    if is_task(spec) or (path / "train-images.npy").is_file():
        task = load_task(spec)
        source = Source((task.train.images, task.train.labels), [task.describe()], classes=task.classes)
    elif user_function.is_user_function(spec):
        made = user_function.call_with_known(user_function.load_function(spec), {"seed": seed}, spec)
        if holds_datasets(made):
            source = Source(training_part(made))
            if (known := labels(source.value)) is not None:
                source.classes = int(known.max()) + 1
        elif isinstance(made, Task):
            source = Source((made.train.images, made.train.labels), [made.describe()], classes=made.classes)
        else:
            source = Source(inputs.map_tensors(made, lambda tensor: tensor))  # its arrays become tensors
    elif path.is_dir():
        source = _image_folder(path, seed, limit, resize)
    elif path.suffix.lower() in _ARRAYS:
        source = Source(_read_arrays(path))
    else:
        kinds = ("file.npy", "file.npz", "file.pt", "file.safetensors", "a folder of images", "file.py:function")
        raise unknown("data", spec, [*DATASETS, *kinds])
    _find_classes(source)
    if not raw:
        _standardize(source, seed, limit)
    _find_geometry(source)
    return source


def _read_arrays(path: Path) -> Any:
    """Read a file of arrays: only numbers, never pickled objects."""
    if not path.is_file():
        raise DataError(f"There is no file '{path}'.", remedy="Check the path.")
    try:
        if path.suffix == ".npy":
            return inputs.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return _pair({name: inputs.from_numpy(archive[name]) for name in archive.files}, path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return _pair(load_file(str(path)), path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        return _pair(found, path) if isinstance(found, Mapping) else found
    except DataError:
        raise
    except HeadstartError as error:
        raise DataError(f"'{path}': {error.message}", remedy=error.remedy) from error
    except Exception as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise DataError(
            f"'{path}' cannot be read as arrays of numbers: {type(error).__name__}: {reason}.",
            remedy="Save a plain array or tensor; files that need unpickling are refused.",
        ) from error


def _pair(arrays: Mapping[str, Any], path: Path) -> Any:
    """Find inputs and labels among named arrays; one array needs no name."""
    if not arrays:
        raise DataError(f"'{path}' holds no array.")
    inputs = [n for n in _INPUTS if n in arrays] or (
        [n for n in arrays if n not in _LABELS] if len(arrays) <= 2 else []
    )
    labels = [n for n in _LABELS if n in arrays]
    if not inputs or (len(arrays) > 1 and not labels):
        return dict(arrays)  # keyword arguments of the model
    return (arrays[inputs[0]], arrays[labels[0]]) if labels else arrays[inputs[0]]


def _image_folder(folder: Path, seed: int, limit: int, resize: int | None) -> Source:
    """Read images, drawn by seed if there are more than needed."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGES)
    if not paths:
        raise DataError(f"The folder '{folder}' holds no image ({', '.join(_IMAGES)}).")
    order = torch.randperm(len(paths), generator=rng.generator(seed, "data"))[:limit].sort().values.tolist()
    arrays = [_read_image(paths[i], resize) for i in order]
    if len({a.ndim for a in arrays}) > 1:  # gray ones among colour ones
        arrays = [a if a.ndim == 3 else np.repeat(a[..., None], 3, 2) for a in arrays]
    if len({a.shape for a in arrays}) > 1:
        sizes = sorted({f"{a.shape[0]}×{a.shape[1]}" for a in arrays})
        raise DataError(
            f"The images of '{folder}' have different sizes: {', '.join(sizes[:4])}{' …' * (len(sizes) > 4)}.",
            remedy="Pass --resize N to scale and crop them to N×N.",
        )
    images = torch.from_numpy(np.stack(arrays))
    images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    groups = {p.parent for p in paths}
    used = f"{len(arrays)} of {len(paths)} images of '{folder}'"
    return Source(images, [used], classes=len(groups) if len(groups) > 1 else None)


def _read_image(path: Path, resize: int | None) -> np.ndarray[Any, Any]:
    with needs_extra(package="pillow", extra="bench", what="A folder of images"):
        from PIL import Image, ImageOps
    try:
        with Image.open(path) as opened:
            image = opened if opened.mode == "L" else opened.convert("RGB")
            return np.asarray(ImageOps.fit(image, (resize, resize)) if resize else image)
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' is not a readable image: {error}.") from error


def _find_classes(source: Source) -> None:
    """Count classes where the data is ``(images, integer labels)``."""
    value = source.value
    if source.classes is None and isinstance(value, (tuple, list)) and len(value) == 2 and _is_array(value[1]):
        labels = torch.as_tensor(value[1])
        if labels.dim() == 1 and labels.numel() and not labels.is_floating_point() and int(labels.min()) >= 0:
            source.classes = int(labels.max()) + 1


def _standardize(source: Source, seed: int, limit: int) -> None:
    """Scale bytes to [0, 1] and standardize each channel by the mean and deviation over all images."""
    pair = isinstance(source.value, (tuple, list)) and len(source.value) == 2
    value = source.value[0] if pair else source.value
    if not (_is_array(value) and torch.as_tensor(value).dtype == torch.uint8 and torch.as_tensor(value).dim() >= 3):
        return
    from headstart.bench.tasks.splits import as_images

    images = as_images(value, "data")
    counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(images.shape[1])])
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ levels
    std = (share @ levels**2 - mean**2).clamp_min(0).sqrt()
    if len(images) > limit:
        index = torch.randperm(len(images), generator=rng.generator(seed, "data"))[:limit].sort().values
        source.notes.append(f"Drew {limit} of {len(images)} samples by seed.")
        images = images[index]
        labels = torch.as_tensor(source.value[1])[index] if pair else None
    else:
        labels = source.value[1] if pair else None
    shape = (1, -1, 1, 1)
    divisor = torch.where(std > 0, std, torch.ones_like(std))
    scaled = (images.double() / 255 - mean.view(shape)) / divisor.view(shape)
    source.value = (scaled.float(), labels) if pair else scaled.float()
    means, stds = (", ".join(f"{v:.4f}" for v in t.tolist()) for t in (mean, std))
    source.notes.append(
        f"Bytes were scaled to [0, 1] and standardized: mean ({means}), std ({stds}); --raw leaves them."
    )


def _find_geometry(source: Source) -> None:
    value = source.value[0] if isinstance(source.value, (tuple, list)) and source.value else source.value
    if isinstance(value, Tensor) and value.dim() == 4:
        source.channels, source.image_size = int(value.shape[1]), (int(value.shape[2]), int(value.shape[3]))


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))
