"""Models by name: ``headstart:NAME``, ``torchvision:NAME``, ``timm:NAME`` or ``file.py:function``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstart import rng
from headstart.bench.models import zoo
from headstart.bench.specs import user_function
from headstart.engine import specs
from headstart.errors import HeadstartError, MissingExtraError, ModelError, unknown

Build = Callable[[int, int, tuple[int, ...]], nn.Module]


@dataclass(frozen=True)
class ModelBuilder:
    """A model that can be built for any input.

    Args:
        spec: The name it was asked for by.
        fingerprint: What tells two states of the same name apart: the sha256 of the user's file, or the
            version of the package that it comes from.
        build: Takes input channels, classes and image size.

    Example:
        >>> model = resolve_model("headstart:prewarm-cnn")(3, 10, (32, 32))
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    spec: str
    fingerprint: str
    build: Build

    def __call__(self, in_channels: int, classes: int, image_size: tuple[int, ...]) -> nn.Module:
        """Build the model with weights drawn from torch's global random state.

        Raises:
            ModelError: If what was built is not a module.
        """
        model = self.build(in_channels, classes, image_size)
        if not isinstance(model, nn.Module):
            raise ModelError(f"'{self.spec}' returned {type(model).__name__}, not a torch.nn.Module.")
        return model


def resolve_model(spec: str) -> ModelBuilder:
    """Find a model by name.

    Args:
        spec: ``headstart:prewarm-cnn``, ``headstart:plain-cnn:depth=20``, ``torchvision:resnet18``,
            ``timm:resnet18`` or ``file.py:build_model``. The user's function gets those of
            ``in_channels``, ``classes`` (or ``num_classes``) and ``image_size`` (height and width; of signals their
            length, of volumes the depth first) that its signature takes.

    Returns:
        The builder. Nothing is built yet, and no pre-trained weight is ever loaded.

    Raises:
        UnknownNameError: If there is no such model.
        MissingExtraError: If the package is not installed or does not import.
        HeadstartError: If the user's file is missing or fails.
    """
    if user_function.is_user_function(spec):
        return _from_file(spec)
    family, name = specs.head(spec)
    if family not in _FAMILIES or not name:
        raise unknown("model", spec, [*(f"headstart:{key}" for key in zoo.ZOO), *_HINTS])
    return _FAMILIES[family](name)


def _from_file(spec: str) -> ModelBuilder:
    function = user_function.load_function(spec)

    def build(in_channels: int, classes: int, image_size: tuple[int, ...]) -> nn.Module:
        offered = {
            "in_channels": in_channels,
            "in_chans": in_channels,
            "classes": classes,
            "num_classes": classes,
            "image_size": image_size,
        }
        return user_function.call_with_known(function, offered, spec)

    return ModelBuilder(spec, user_function.file_fingerprint(spec), build)


def _headstart(name: str) -> ModelBuilder:
    return ModelBuilder(f"headstart:{name}", "1", zoo.resolve(name))


def _torchvision(name: str) -> ModelBuilder:
    try:
        import torchvision
        from torchvision import models as found
    except (ImportError, RuntimeError) as error:
        raise _does_not_import("torchvision", error) from error
    if name not in found.list_models(module=found):
        raise unknown("torchvision model", name, found.list_models(module=found))

    def build(in_channels: int, classes: int, image_size: tuple[int, ...]) -> nn.Module:
        if in_channels != 3:
            raise ModelError(
                f"'torchvision:{name}' takes images of 3 channels; these have {in_channels}.",
                remedy=f"'timm:{name}', if timm has it, or your own file.py:build_model take any number.",
            )
        return found.get_model(name, weights=None, num_classes=classes)

    return ModelBuilder(f"torchvision:{name}", torchvision.__version__, build)


def _timm(name: str) -> ModelBuilder:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise _does_not_import("timm", error) from error
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())

    def build(in_channels: int, classes: int, image_size: tuple[int, ...]) -> nn.Module:
        options: dict[str, Any] = {"in_chans": in_channels, "num_classes": classes}
        try:  # transformers must know the size; convolutional nets do not take it
            return timm.create_model(name, pretrained=False, img_size=image_size, **options)
        except TypeError:
            return timm.create_model(name, pretrained=False, **options)

    return ModelBuilder(f"timm:{name}", timm.__version__, build)


def _does_not_import(package: str, error: Exception) -> HeadstartError:
    """Keep the cause in the message: 'not installed' and 'does not import' need different remedies."""
    missing = MissingExtraError(package=package, extra=package, what=f"A '{package}:' model")
    cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
    missing.args = (f"{missing} (The import said: {cause})",)
    return missing


_FAMILIES: dict[str, Callable[[str], ModelBuilder]] = {
    "headstart": _headstart,
    "torchvision": _torchvision,
    "timm": _timm,
}
_HINTS = ("torchvision:NAME", "timm:NAME", "file.py:build_model")


def takes_signals(builder: ModelBuilder, images: Tensor, classes: int) -> bool:
    """Tell whether a model that does not take ``(B, 1, C, T)`` as images takes ``(B, C, T)``.

    Args:
        builder: Of the model; one is built and let go. The global random states are as before afterwards.
        images: A few.
        classes: Of the task.
    """
    if images.dim() != 4 or images.shape[1] != 1:
        return False
    try:
        check_outputs(builder, images[:, 0], classes)
    except Exception:  # a builder of images' models may not know what to do with one size
        return False
    return True


def check_outputs(builder: ModelBuilder, images: Tensor, classes: int) -> None:
    """Raise the error for a model that does not answer images with a number per class, before anything is trained.

    Args:
        builder: Of the model; one is built and let go. The global random states are as before afterwards.
        images: A few, as the model is given them, ``(B, C, H, W)``.
        classes: Of the task.

    Raises:
        ModelError: If its forward fails, or returns something else, or there is nothing to train.
    """
    given = f"on images of shape {tuple(images.shape)}"
    with rng.untouched(), torch.no_grad():
        model = builder(images.shape[1], classes, tuple(images.shape[2:])).to(images.device).eval()
        try:
            found = model(images)
        except HeadstartError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")
            raise ModelError(
                f"The forward of '{builder.spec}' failed {given}: {reason}.",
                remedy="The model has to take the task's images; a model of your own may ask for image_size.",
            ) from error
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"'{builder.spec}' has no parameter to train.")
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    if len(shape) != 2 or shape[0] != len(images) or shape[1] < classes:
        what = f"a tensor of shape {shape}" if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"'{builder.spec}' returned {what} {given}, not a tensor of shape ({len(images)}, {classes}).",
            remedy="Return one number per class for each image, the logits.",
        )


def first_layer(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Find the layer that the image meets first: the first convolution, or else the first linear layer.

    Returns:
        Its qualified name and the layer, or None. The order is that of registration, which is the order
        of execution in all but unusual models.

    Example:
        >>> first_layer(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))[0]
        '1'
    """
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    linear: tuple[str, nn.Module] | None = None
    for name, module in model.named_modules():
        if isinstance(module, convolutions):
            return name, module
        if linear is None and isinstance(module, nn.Linear):
            linear = name, module
    return linear


def parameter_count(model: nn.Module) -> int:
    """Count the trainable numbers of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad and not _is_lazy(p))


def _is_lazy(parameter: torch.Tensor) -> bool:
    return nn.parameter.is_lazy(parameter)
