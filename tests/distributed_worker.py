"""What the processes of tests/test_distributed.py do: each scenario runs on every rank and returns plain data."""

from __future__ import annotations

import pickle
import traceback
from datetime import timedelta

import torch
from torch import nn

import headstart as hs


class Untouchable:
    """Data that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"a rank that does not compute looked at its data: {name}")

    def __iter__(self):
        raise AssertionError("a rank that does not compute went through its data")

    def __len__(self):
        raise AssertionError("a rank that does not compute counted its data")


class Fails:
    """Data whose reading fails with an exception of Python."""

    def __iter__(self):
        raise FileNotFoundError(2, "No such file or directory", "images")


class Odd(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class FailsOddly:
    def __iter__(self):
        raise Odd(1, 2)


def model(rank, channels=8):
    """A model whose weights, and whose running statistics, differ between the ranks."""
    torch.manual_seed(rank)
    built = nn.Sequential(
        nn.Conv2d(1, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, 4, 3),
        nn.Flatten(),
        nn.Linear(256, 3),
    )
    built[1].running_mean.add_(rank)
    return built


def images():
    return torch.rand(64, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def mine(rank, src=0, data=None):
    """The data on the rank that computes, a trap elsewhere."""
    return (images() if data is None else data) if rank == src else Untouchable()


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal_bits(rank):
    net = model(rank)
    report = hs.distributed.initialize(net, mine(rank), "prewarm+within-layer", seed=3)
    return state(net), report.changed, [row.name for row in report.rows]


def trained(rank):
    net = model(rank)
    data = (images(), torch.arange(64) % 3)
    method = hs.SmartInit(fractions=(0.25, 0.5), epochs=2, batch_size=8)
    hs.distributed.initialize(net, mine(rank, data=data), method, seed=3)
    return state(net)


def another_source(rank):
    net = model(rank)
    hs.distributed.initialize(net, mine(rank, src=1), "prewarm", src=1)
    return state(net)


def generator(rank):
    draw = torch.Generator().manual_seed(7)
    net = model(rank)
    hs.distributed.initialize(net, mine(rank), "prewarm", seed=draw)
    return state(net), draw.get_state()


def ddp(rank):
    net = model(rank)
    hs.distributed.initialize(net, mine(rank), "prewarm")
    wrapped = nn.parallel.DistributedDataParallel(net)
    loss = wrapped(images()[rank * 8 : rank * 8 + 8]).square().mean()
    loss.backward()
    return net[0].weight.grad.clone()


def fsdp(rank):
    """The values before sharding, and those that the shards make up together."""
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        return None
    net = model(rank)
    hs.distributed.initialize(net, mine(rank), "prewarm")
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    fully_shard(net, mesh=torch.distributed.init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    kinds = {type(value).__name__ for value in net.parameters()}
    return before, {name: value.full_tensor().detach() for name, value in net.named_parameters()}, kinds


def failing(rank, net, data, method="prewarm"):
    """The error and whether the model is as it was, and that the group still works."""
    before = state(net)
    try:
        hs.distributed.initialize(net, data, method)
    except Exception as error:
        found = type(error).__name__, str(error), getattr(error, "remedy", None)
    else:
        found = None
    same = all(torch.equal(value, before[name]) for name, value in state(net).items())
    torch.distributed.barrier()
    return found, same


def constant_data(rank):
    return failing(rank, model(rank), mine(rank, data=torch.zeros(64, 1, 12, 12)))


def unknown_method(rank):
    return failing(rank, model(rank), mine(rank), "prewram")


def python_error(rank):
    return failing(rank, model(rank), mine(rank, data=Fails()))


def odd_error(rank):
    return failing(rank, model(rank), mine(rank, data=FailsOddly()))


def wrapped_already(rank):
    return failing(rank, nn.parallel.DistributedDataParallel(model(0)), mine(rank))


def lazy(rank):
    net = nn.Sequential(nn.LazyConv2d(4, 3))
    try:
        hs.distributed.initialize(net, mine(rank), "prewarm")
    except hs.ModelError as error:
        return str(error)


def other_model(rank):
    return failing(rank, model(rank, channels=8 + rank), mine(rank))


def outsider(rank):
    group = torch.distributed.new_group([0])
    net = model(rank)
    try:
        return hs.distributed.initialize(net, mine(rank), "prewarm", group=group).changed
    except hs.HeadstartError as error:
        return str(error)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        equal_bits,
        trained,
        another_source,
        generator,
        ddp,
        fsdp,
        constant_data,
        unknown_method,
        python_error,
        odd_error,
        wrapped_already,
        lazy,
        other_model,
        outsider,
    )
}


def work(rank, world, folder):
    """Run every scenario and leave what came of it in a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=timedelta(seconds=120)
    )
    found = {}
    for name, scenario in SCENARIOS.items():
        try:
            found[name] = scenario(rank)
        except BaseException:
            found[name] = traceback.format_exc()
        torch.distributed.barrier()
    with open(f"{folder}/{rank}.pickle", "wb") as file:
        pickle.dump(found, file)
    torch.distributed.destroy_process_group()
