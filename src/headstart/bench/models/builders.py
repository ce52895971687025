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
from headstart.bench.tasks.kinds import Inputs, called, tensors
from headstart.bench.tasks.task import Task
from headstart.engine import specs
from headstart.errors import HeadstartError, MissingExtraError, ModelError, unknown

Build = Callable[[int, int, tuple[int, ...]], nn.Module]


@dataclass(frozen=True)
class ModelBuilder:
    """A model that can be built for any input.

    Args:
        spec: The name by which it was requested.
        fingerprint: It identifies the content behind the name: the sha256 of the user's file, or the
            version of the model's package.
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
            ModelError: The result is not a module.
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
            ``in_channels`` (channels, features, or how many tokens there are), ``classes`` (or ``num_classes``) and
            ``image_size`` (height and width, or the sides of other inputs) that its signature takes.

    Returns:
        The builder. Nothing is built yet, and pre-trained weights are never loaded.

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
    """Keep the cause in the message: 'not installed' and 'does not import' have different remedies."""
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


def takes_signals(builder: ModelBuilder, task: Task, inputs: Inputs, targets: Tensor) -> bool:
    """Tell whether a model takes ``(B, C, T)``, if it does not take ``(B, 1, C, T)`` as images.

    Args:
        builder: The builder of the model; a model is built for the test. The global random states are restored.
        task: The task, as images.
        inputs: A few inputs.
        targets: Their targets.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.shape[1] != 1:
        return False
    try:
        check_outputs(builder, task.as_signals(), inputs[:, 0], targets)
    except Exception:  # a builder of images' models may not know what to do with one size
        return False
    return True


def check_outputs(builder: ModelBuilder, task: Task, inputs: Inputs, targets: Tensor) -> None:
    """Raise if a model's output does not fit the task, before anything is trained.

    Args:
        builder: The builder of the model; a model is built for the test. The global random states are restored.
        task: The task.
        inputs: A few samples, as the model gets them.
        targets: Their targets.

    Raises:
        ModelError: Its forward fails, its output has another form, or there is nothing to train.
    """
    shapes = " and ".join(str(tuple(t.shape)) for t in tensors(inputs))
    given = f"on images of shape {shapes}" if task.kind == "classification" else f"on inputs of shape {shapes}"
    with rng.untouched(), torch.no_grad():
        model = builder(task.channels, task.classes, task.image_size).to(targets.device).eval()
        try:
            found = called(model, inputs)
        except HeadstartError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")
            raise ModelError(
                f"The forward of '{builder.spec}' failed {given}: {reason}.",
                remedy="The model must accept the task's images; your own builder can take image_size.",
            ) from error
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"'{builder.spec}' has no parameter to train.")
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    wanted, fits = _wanted(task, targets, shape)
    if not fits:
        what = f"a tensor of shape {shape}" if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"'{builder.spec}' returned {what} {given}, not a tensor of shape {wanted}.", remedy=_REMEDIES[task.kind]
        )


_REMEDIES = {
    "classification": "Return one number per class for each image, the logits.",
    "multilabel": "Return one number per label for each sample, the logits.",
    "regression": "Return one number per value for each sample.",
    "segmentation": "Return one number per class at every position, with the classes on the second axis.",
    "next-token": "Return one number per token at every position, with the tokens on the last axis.",
}


def _wanted(task: Task, targets: Tensor, shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """The shape that a task needs, and whether a model's output has it. More classes than needed are allowed."""
    count, rest = len(targets), tuple(targets.shape[1:])
    if task.kind in ("multilabel", "regression"):
        return tuple(targets.shape), shape == tuple(targets.shape) or (task.classes == 1 and shape == (count,))
    if task.kind == "classification":
        return (count, task.classes), len(shape) == 2 and shape[0] == count and shape[1] >= task.classes
    second = shape[:1] + shape[2:] == (count, *rest) and shape[1] >= task.classes
    last = shape[:-1] == (count, *rest) and shape[-1] >= task.classes
    wanted = (count, *rest, task.classes) if task.kind == "next-token" else (count, task.classes, *rest)
    return wanted, len(shape) == len(rest) + 2 and (second or last)


def first_layer(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Find the first layer: the first convolution, or else the first linear layer.

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
