"""How many operations and reads a call asks for: what it costs on an accelerator, counted on the CPU."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import headstart as hs

sys.path.insert(0, str(Path(__file__).parent))
from counting import counted

LIMITS = {  # of operations and reads per layer
    "within-layer": (45, 2),
    "lsuv": (60, 2),
    "within-layer+balance": (90, 1),
    "auto": (300, 5),
}
CALLS = {"auto": (400, 40), "prewarm": (800, 60)}  # per call, on a network with norms


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, norms: bool) -> None:
        super().__init__()

        def conv(i: int, o: int, kernel: int, stride: int = 1) -> nn.Sequential:
            layer = nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=not norms)
            return nn.Sequential(layer, nn.BatchNorm2d(o)) if norms else nn.Sequential(layer)

        self.first, self.second = conv(inputs, width, 1), conv(width, width, 3, stride)
        self.third = conv(width, 4 * width, 1)
        self.skip = conv(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = torch.relu(self.second(torch.relu(self.first(x))))
        return torch.relu(self.third(inside) + self.skip(x))


def bottleneck_resnet(norms: bool, blocks: tuple[int, ...] = (3, 3, 3, 2), width: int = 4) -> nn.Module:
    """A bottleneck ResNet of 39 weight layers: a stem, eleven blocks, four shortcuts, an output layer."""
    torch.manual_seed(0)
    stem = nn.Conv2d(3, width, 3, padding=1, bias=not norms)
    parts: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()] if norms else [stem, nn.ReLU()]
    inputs = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            parts.append(Bottleneck(inputs, width * 2**stage, 2 if stage and not block else 1, norms))
            inputs = 4 * width * 2**stage
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


LAYERS = 39


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(32, 3, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", LIMITS)
def test_a_start_of_a_network_without_norms_asks_for_little_per_layer(method, images):
    net = bottleneck_resnet(norms=False)
    with counted() as counts:
        report = hs.initialize(net, images, method.split("+"))
    operations, reads = LIMITS[method]
    assert len(report.changed) == LAYERS - (method == "auto")  # of one layer's 16 weights it can tell nothing
    assert counts.operations.total() <= operations * LAYERS, counts.operations.most_common(20)
    assert counts.reads.total() <= reads * LAYERS, counts.reads.most_common(20)


@pytest.mark.parametrize("method", CALLS)
def test_a_start_of_the_first_layer_asks_for_little_in_all(method, images):
    net = bottleneck_resnet(norms=True)
    with counted() as counts:
        report = hs.initialize(net, images, method)
    operations, reads = CALLS[method]
    assert report.changed == ["0"]
    assert counts.operations.total() <= operations, counts.operations.most_common(20)
    assert counts.reads.total() <= reads, counts.reads.most_common(20)


def test_the_counts_see_what_asks_the_device_in_every_thread():
    from threading import Thread

    x = torch.arange(6.0)
    with counted() as counts:
        x.add(1).mul(2)
        x[x > 2]
        float(x.sum())
        bool((x > 1).all())
        x.nonzero(), x.unique(), torch.equal(x, x), torch.allclose(x, x), x.numpy(), x.tolist(), x.cpu()
        inside = Thread(target=lambda: x.sum().item())
        inside.start()
        inside.join()
    assert counts.operations.total() > 10
    assert {name for name, _ in counts.reads} >= {"index", "__float__", "__bool__", "nonzero", "_unique2", "equal"}
    assert {name for name, _ in counts.reads} >= {"numpy", "tolist", "cpu", "item"}
