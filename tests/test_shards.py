"""An initialization that was computed on an unsharded copy is written into shards of two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import headstart as hs

WORLD = 2


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def data():
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def work(rank, folder):
    """What each process does; it leaves what it saw in the folder."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_module, distribute_tensor

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        from torch.distributed._composable.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        mesh = init_device_mesh("cpu", (WORLD,))
        init = hs.Init.load(f"{folder}/init.safetensors")

        def by_rows(name, module, mesh):
            for key, parameter in list(module.named_parameters(recurse=False)):
                module.register_parameter(key, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))

        sharded = fully_shard(build(), mesh=mesh)
        with torch.no_grad():
            sharded(data())  # gathers the root's parameters, which are then the ones that the modules hold
        rows = distribute_module(build(), mesh, by_rows)
        compiled = torch.compile(fully_shard(build(), mesh=mesh))
        found = {}
        for name, model in (("fsdp", sharded), ("rows", rows), ("compiled", compiled)):
            try:
                hs.initialize(model, data(), "lsuv")
            except hs.ModelError as error:
                refusal = str(error)
            hs.apply(model, init)
            plain = getattr(model, "_orig_mod", model)
            full = {n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in plain.named_parameters()}
            local = {n: tuple(p.to_local().shape) for n, p in plain.named_parameters()}
            found[name] = {n: p.detach() for n, p in full.items()}, local, refusal
            bad = hs.Init({"0.weight": torch.full((7, 6), 1e30)}, {}, None)
            try:
                hs.apply(plain.half() if name == "rows" else plain, bad if name == "rows" else init)
            except hs.HeadstartError as error:
                found["too large"] = str(error)
        torch.save(found, f"{folder}/rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_write_their_shards(tmp_path):
    net = build()
    init = hs.compute(net, data(), "within-layer")
    init.save(tmp_path / "init.safetensors")
    hs.apply(net, init)
    here = Path(__file__).resolve().parent
    code = (
        "import torch, test_shards\n"
        "if __name__ == '__main__':\n"
        f"    torch.multiprocessing.spawn(test_shards.work, ({str(tmp_path)!r},), nprocs={WORLD})\n"
    )
    (tmp_path / "main.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name in ("fsdp", "rows", "compiled"):
            full, local, refusal = found[name]
            assert full.keys() == dict(net.named_parameters()).keys()
            for key, value in net.named_parameters():
                assert torch.equal(full[key], value), (name, key)
            assert local["0.weight"] == ((4, 3)[rank], 6)  # 7 rows on two processes
            assert "hs.apply(model, init) on every rank" in refusal
        assert "do not fit into torch.float16" in found["too large"]
