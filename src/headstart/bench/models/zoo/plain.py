"""Networks without shortcuts or separable convolutions: Pre-Warm's CNN, plain deep CNNs, CaffeNet."""

from __future__ import annotations

from torch import nn

Size = tuple[int, ...]


def prewarm_cnn(in_channels: int, classes: int, image_size: Size) -> nn.Module:
    """Build Pre-Warm's published CNN: two 3×3 convolutions with batch norm and pooling, two linear layers."""
    height, width = image_size
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )


def plain_cnn(in_channels: int, classes: int, image_size: Size, depth: int = 20, width: int = 32) -> nn.Module:
    """Build ``depth`` 3×3 convolutions of one width, each with its bias and a ReLU, and a linear layer.

    The first convolutions of the second and of the last third halve the image. Weights start as torch draws
    them: at depth 20 no signal of the image reaches the end.
    """
    halving = {round(depth / 3), round(2 * depth / 3)} - {0}
    layers: list[nn.Module] = []
    for place in range(depth):
        inputs, stride = (width, 2 if place in halving else 1) if place else (in_channels, 1)
        layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def caffenet(in_channels: int, classes: int, image_size: Size, stride: int = 4) -> nn.Module:
    """Build CaffeNet with two groups in convolutions 2, 4 and 5, and Caffe's Gaussian weights and biases of 0 and 1.

    The output of the last pooling is averaged to 6×6 (at 227×227 it is already 6×6).
    """

    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    net = nn.Sequential()
    for name, layer in [
        ("conv1", nn.Conv2d(in_channels, 96, 11, stride)),
        ("relu1", nn.ReLU()),
        ("pool1", pool()),
        ("norm1", nn.LocalResponseNorm(5, 1e-4, 0.75)),
        ("conv2", nn.Conv2d(96, 256, 5, padding=2, groups=2)),
        ("relu2", nn.ReLU()),
        ("pool2", pool()),
        ("norm2", nn.LocalResponseNorm(5, 1e-4, 0.75)),
        ("conv3", nn.Conv2d(256, 384, 3, padding=1)),
        ("relu3", nn.ReLU()),
        ("conv4", nn.Conv2d(384, 384, 3, padding=1, groups=2)),
        ("relu4", nn.ReLU()),
        ("conv5", nn.Conv2d(384, 256, 3, padding=1, groups=2)),
        ("relu5", nn.ReLU()),
        ("pool5", pool()),
        ("average", nn.AdaptiveAvgPool2d(6)),
        ("flatten", nn.Flatten()),
        ("fc6", nn.Linear(256 * 36, 4096)),
        ("relu6", nn.ReLU()),
        ("drop6", nn.Dropout()),
        ("fc7", nn.Linear(4096, 4096)),
        ("relu7", nn.ReLU()),
        ("drop7", nn.Dropout()),
        ("fc8", nn.Linear(4096, classes)),
    ]:
        net.add_module(name, layer)
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.005 if name in ("fc6", "fc7") else 0.01)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 0.0 if name in ("conv1", "conv3", "fc8") else 1.0)
    return net


def caffenet_smallest(stride: int) -> int:
    """Return the smallest side of an image: three poolings need 8 columns of the first convolution's output."""
    return 11 + 7 * stride
