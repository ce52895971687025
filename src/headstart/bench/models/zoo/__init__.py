"""The models behind ``headstart:NAME``, each for any number of channels and classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from headstart.bench.models.zoo import cifar_resnets, mobilenets, others, plain, resnets, vgg
from headstart.bench.specs import options as reader
from headstart.engine import specs
from headstart.errors import HeadstartError, ModelError, unknown

Size = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A model by name.

    Args:
        about: A line on what it is.
        build: Takes input channels, classes, image size, and the options by name.
        options: Each option's default and its least and largest value.
        smallest: The smallest side of an image, as a function of the options.
        sides: How many sides a sample may have: 2 for images; empty for any.
        asks: The name of its inputs.
    """

    about: str
    build: Callable[..., nn.Module]
    options: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    smallest: Callable[..., int] = lambda **_: 1
    sides: tuple[int, ...] = (2,)
    asks: str = "images"


_STRIDE = (2, 1, 2)
ZOO: dict[str, Entry] = {
    "prewarm-cnn": Entry(
        "Pre-Warm's CNN: two 3×3 convolutions with batch norm and pooling, two linear layers",
        plain.prewarm_cnn,
        smallest=lambda **_: 4,
    ),
    "plain-cnn": Entry(
        "a plain ReLU CNN of 3×3 convolutions, without normalization or shortcuts",
        plain.plain_cnn,
        {"depth": (20, 1, 1000), "width": (32, 1, 4096)},
    ),
    "caffenet": Entry(
        "CaffeNet: AlexNet with pooling before normalization, in Caffe's Gaussian start",
        plain.caffenet,
        {"stride": (4, 1, 4)},
        smallest=plain.caffenet_smallest,
    ),
    "resnet18": Entry("ResNet-18 with the ImageNet stem", resnets.resnet18),
    "resnet18-plain-stage1": Entry(
        "ResNet-18 without the shortcuts of its first stage, as filter clustering used it",
        resnets.resnet18_plain_stage1,
    ),
    "resnet50": Entry("ResNet-50 with the ImageNet stem", resnets.resnet50),
    "cifar-resnet20": Entry(
        "the ResNet-20 for 32×32 images, parameter-free shortcuts; norm=0 without batch norm",
        cifar_resnets.resnet20,
        {"norm": (1, 0, 1)},
    ),
    "cifar-resnet56": Entry(
        "the ResNet-56 for 32×32 images, parameter-free shortcuts; norm=0 without batch norm",
        cifar_resnets.resnet56,
        {"norm": (1, 0, 1)},
    ),
    "mobilenet-v1": Entry(
        "MobileNet v1: 13 depthwise-separable blocks; width 8, 16, 24, 32 are its multipliers 0.25 to 1",
        mobilenets.mobilenet_v1,
        {"stride": _STRIDE, "width": (32, 1, 256)},
    ),
    "mobilenet-v2": Entry("MobileNet v2: inverted residuals", mobilenets.mobilenet_v2, {"stride": _STRIDE}),
    "mobilenet-v3-small": Entry(
        "MobileNet v3 small: squeeze-and-excitation, hard swish", mobilenets.mobilenet_v3_small, {"stride": _STRIDE}
    ),
    "vgg16": Entry("VGG-16", vgg.vgg16, smallest=lambda **_: 32),
    "vgg16-bn": Entry("VGG-16 with batch norm", vgg.vgg16_bn, smallest=lambda **_: 32),
    "mlp": Entry(
        "hidden ReLU layers over all values of a sample, for features and others",
        others.mlp,
        {"width": (64, 1, 8192), "depth": (2, 0, 100)},
        sides=(),
        asks="samples",
    ),
    "signal-cnn": Entry(
        "three convolutions over time with batch norm, for signals",
        others.signal_cnn,
        {"width": (32, 1, 1024)},
        sides=(1,),
        asks="signals (N, C, T)",
    ),
    "unet": Entry(
        "a small U-Net, for segmentation in 1 to 3 dimensions",
        others.unet,
        {"width": (16, 1, 512)},
        smallest=lambda **_: 4,
        sides=(1, 2, 3),
        asks="images or volumes",
    ),
    "token-transformer": Entry(
        "a small causal transformer, for the next token",
        others.token_transformer,
        {"width": (64, 4, 4096), "depth": (2, 1, 100)},
        sides=(1,),
        asks="tokens (N, T)",
    ),
}


def resolve(name: str) -> Callable[[int, int, Size], nn.Module]:
    """Find a builder by ``NAME`` or ``NAME:option=value,...``.

    Raises:
        UnknownNameError: If there is no such model or option.
        HeadstartError: If an option's value does not fit.

    Example:
        >>> net = resolve("plain-cnn:depth=3,width=4")(1, 10, (8, 8))
        >>> sum(isinstance(m, nn.Conv2d) for m in net.modules())
        3
    """
    entry, chosen = _chosen(name)

    def build(in_channels: int, classes: int, image_size: Size) -> nn.Module:
        least = entry.smallest(**chosen)
        if entry.sides and len(image_size) not in entry.sides:
            raise ModelError(
                f"'headstart:{name}' takes {entry.asks}; these inputs have {len(image_size)} sides.",
                remedy="'headstart models' lists the networks; a file.py:function of your own takes anything.",
            )
        if min(image_size, default=least) < least:
            sizes, wanted = "×".join(map(str, image_size)), "×".join([str(least)] * len(image_size))
            smaller = "With the option stride=1 it takes smaller images." if chosen.get("stride", 1) > 1 else ""
            raise ModelError(
                f"'headstart:{name}' needs {entry.asks} of at least {wanted}, not {sizes}.",
                remedy=smaller,
            )
        return entry.build(in_channels, classes, image_size, **chosen)

    return build


def _chosen(name: str) -> tuple[Entry, dict[str, int]]:
    """Return the model's entry and the value of every option."""
    base, text = specs.head(name)
    if base not in ZOO:
        raise unknown("model", f"headstart:{base}", [f"headstart:{key}" for key in ZOO])
    entry = ZOO[base]
    chosen = reader.read(text, {key: default for key, (default, _, _) in entry.options.items()}, f"headstart:{base}")
    for key, (_, low, high) in entry.options.items():
        if not low <= chosen[key] <= high:
            raise HeadstartError(f"'headstart:{base}': {key}={chosen[key]} is not between {low} and {high}.")
    return entry, chosen


def smallest(name: str) -> int:
    """Return the smallest side of an image that ``NAME`` or ``NAME:option=value,...`` takes.

    Raises:
        UnknownNameError: If there is no such model or option.
        HeadstartError: If an option's value does not fit.

    Example:
        >>> smallest("caffenet"), smallest("caffenet:stride=1")
        (39, 18)
    """
    entry, chosen = _chosen(name)
    return entry.smallest(**chosen)
