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


@pytest.mark.parametrize("method", ["balance", "within-layer+balance", "data-dependent", "calibrate"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_rescales_keeps_the_function_of_a_half_precision_model_to_its_rounding(method, dtype):
    net = network().to(dtype)
    with torch.no_grad():
        net[0][0].weight.mul_(4)  # rates far apart
    reference = copy.deepcopy(net)
    if "within" in method:
        hs.initialize(reference, images(), "within-layer")
    report = hs.initialize(net, images(), method)
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    if method in ("balance", "within-layer+balance"):
        found = report.findings[-1]
        assert "layers spread" in found
        before, after = (float(part.split("-fold")[0].split()[-1]) for part in found.split("spread ")[1].split(" and "))
        assert after < max(1.5, before / 2)
    if method != "data-dependent":  # which fills
        x = images().to(dtype)
        with torch.no_grad():
            old, new = reference(x).float(), net(x).float()
        assert float((old - new).abs().max()) <= 20 * torch.finfo(dtype).eps * float(old.abs().max())


@pytest.mark.parametrize("method", ["balance", "prewarm", "whitening", "within-layer:fill=kmeans", "auto"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_starts_from_data_write_half_precision_as_they_write_float32(method, dtype):
    half, whole = network().to(dtype), network().to(dtype).float()
    x = images().sigmoid().to(dtype)
    reports = [hs.initialize(net, data, method) for net, data in ((half, x), (whole, x.float()))]
    assert reports[0].changed == reports[1].changed
    for a, b in zip(half.state_dict().values(), whole.state_dict().values(), strict=True):
        assert a.dtype is dtype
        assert bool(a.isfinite().all())
        if method not in ("auto", "within-layer:fill=kmeans"):  # rounding of a layer's inputs moves clusters
            assert float((a.float() - b).abs().max()) <= 40 * torch.finfo(dtype).eps * float(b.abs().max())


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


@pytest.mark.parametrize("method", ["lsuv", "balance", "auto", "prewarm", "orthogonal"])
def test_every_start_is_refused_inside_of_a_captured_graph_and_says_what_to_do(method, monkeypatch):
    for name in ("is_available", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    with pytest.raises(hs.HeadstartError, match="CUDA graph") as error:
        hs.initialize(network(), images(), method)
    assert error.value.remedy


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


@pytest.mark.parametrize("method", ["within-layer", "lsuv", "balance", "auto"])
def test_a_model_that_is_partly_on_the_meta_device_is_refused_and_stays(method):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, device="meta"))
    before = net[0].weight.detach().clone()
    with pytest.raises(hs.HeadstartError, match="meta"):
        hs.initialize(net, images(), method)
    assert torch.equal(net[0].weight, before)


@CUDA
def test_a_model_over_two_devices_is_started():
    report = hs.initialize(Halves("cuda"), images(), "within-layer")
    assert [round(row.output_std, 2) for row in report.rows] == [1.0, 1.0]
