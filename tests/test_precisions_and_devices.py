"""Starts in half precision, in channels-last memory, on accelerators, and inside a captured graph."""

import copy

import pytest
import torch
from torch import nn

import headstart as hs

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
STARTS = ["within-layer", "lsuv", "within-layer:fill=orthonormal", "within-layer:fill=pca"]


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.ReLU()
    )
    return nn.Sequential(convolutions, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))


def images() -> torch.Tensor:
    return torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", STARTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_and_outputs_have_deviation_one_to_its_rounding(method, dtype):
    net = network().to(dtype)
    report = hs.initialize(net, images(), method)
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert len(report.changed) == 3
    slack = 20 * torch.finfo(dtype).eps
    with torch.no_grad():
        assert float(net(images().to(dtype)).float().std(correction=0)) == pytest.approx(1, abs=slack)
    assert all(row.output_std == pytest.approx(1, abs=slack) for row in report.rows)


@pytest.mark.parametrize("method", [*STARTS, "within-layer+balance"])
def test_channels_last_memory_gives_the_same_start_and_stays(method):
    plain, last = network(), network().to(memory_format=torch.channels_last)
    hs.initialize(plain, images(), method)
    hs.initialize(last, images().to(memory_format=torch.channels_last), method)
    for (name, a), b in zip(plain.named_parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=name)
    assert last[0][2].weight.is_contiguous(memory_format=torch.channels_last)


def test_inside_of_a_captured_graph_a_call_is_refused(monkeypatch):
    for name in ("is_available", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    net = network()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(hs.HeadstartError, match="CUDA graph"):
        hs.initialize(net, images(), "within-layer")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@CUDA
def test_a_captured_graph_refuses_on_the_device_too():
    net, x = network().cuda(), images().cuda()
    with pytest.raises(hs.HeadstartError, match="CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        hs.initialize(net, x, "within-layer")


@CUDA
@pytest.mark.parametrize("method", STARTS)
def test_a_cuda_model_gets_the_weights_of_the_cpu(method):
    here, there = network(), network().cuda()
    hs.initialize(here, images(), method)
    hs.initialize(there, images(), method)
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), atol=2e-3, rtol=1e-2)


class Halves(nn.Module):
    """A model whose second half is on another device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.first, self.second, self.device = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3).to(device), device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)).to(self.device))


@CUDA
def test_a_model_over_two_devices_is_started():
    report = hs.initialize(Halves("cuda"), images(), "within-layer")
    assert [round(row.output_std, 2) for row in report.rows] == [1.0, 1.0]
