"""Models that cannot be initialized in place, the real ones."""

import contextlib
import importlib

import pytest
import torch
import torch.distributed as dist
from torch import nn

import headstart as hs
from headstart.conformance.state import Snapshot
from headstart.model import guard


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


def net():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_distributed_data_parallel(process_group):
    model = nn.parallel.DistributedDataParallel(net())
    before = Snapshot(model)
    with pytest.raises(hs.ModelError, match=r"DistributedDataParallel.*model\.module.*before wrapping"):
        hs.initialize(model, X)
    before.require_kept()
    assert hs.initialize(model.module, X).changed == ["0"]


def moved(name, *modules):
    """Something that older releases of torch keep in another module: from the first one that has it."""
    for module in modules:
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), name)
    raise ImportError(f"{name} is in none of {modules}")


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_fully_sharded(process_group):
    fully_shard = moved("fully_shard", "torch.distributed.fsdp", "torch.distributed._composable.fsdp")  # public: 2.6
    model = net()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
    with pytest.raises(hs.ModelError, match="FSDP"):
        hs.initialize(model, X)


@pytest.mark.filterwarnings("ignore:DTensor random operators")  # torch 2.4 says so of the CPU; none is run here
def test_a_sharded_parameter(process_group):
    distribute_tensor = moved("distribute_tensor", "torch.distributed.tensor", "torch.distributed._tensor")  # 2.5
    model = net()
    mesh = dist.init_device_mesh("cpu", (1,))
    model[0].weight = nn.Parameter(distribute_tensor(model[0].weight.detach(), mesh))
    with pytest.raises(hs.ModelError, match=r"'0.weight' is a DTensor.*on every rank"):
        hs.initialize(model, X)


def test_a_wrapper_inside_is_named():
    model = nn.ModuleDict({"inner": nn.DataParallel(net())})
    with pytest.raises(hs.ModelError, match=r"'inner' is wrapped in DataParallel"):
        guard.check(model)


def test_meta_parameters_and_buffers():
    with pytest.raises(hs.ModelError, match=r"'weight' is on the meta device.*hs.materialize"):
        guard.check(nn.Linear(2, 2, device="meta"))
    norm = nn.BatchNorm1d(2)
    norm.running_mean = torch.zeros(2, device="meta")
    with pytest.raises(hs.ModelError, match="'running_mean' is on the meta device"):
        guard.check(norm)


def test_the_remedy_for_meta_models_works():
    model = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Linear(4, 2, device="meta"))
    assert hs.materialize(model, device="cpu") == []
    assert hs.initialize(model, X, "lsuv").changed == ["0", "1"]
    assert torch.isfinite(model(X)).all()


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        model = net()
    with pytest.raises(hs.ModelError, match=r"inference tensor.*outside of torch\.inference_mode"):
        hs.initialize(model, X)


@pytest.mark.filterwarnings("ignore:.torch.jit.")  # deprecated; which category says so depends on the release
def test_traced_models():
    traced = torch.jit.trace(net(), torch.randn(2, 4))
    with pytest.raises(hs.ModelError, match="TorchScript"):
        guard.check(traced)


def test_symbolically_traced_models_work():
    model = torch.fx.symbolic_trace(net())
    assert hs.initialize(model, X, "lsuv").changed == ["0", "2"]


@pytest.mark.parametrize("model", [None, "resnet18", {"weight": torch.zeros(1)}, nn.Linear, lambda x: x])
def test_what_is_no_module(model):
    with pytest.raises(hs.ModelError, match=r"not a torch\.nn\.Module"):
        hs.initialize(model, X)


def test_lazy_models_are_recognized():
    assert guard.is_lazy(nn.Sequential(nn.LazyLinear(2)))
    assert guard.is_lazy(nn.LazyBatchNorm1d(affine=False))
    assert not guard.is_lazy(net())
