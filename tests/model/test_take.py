"""Samples are told from batches, graphs stay whole, and masks of minus infinity pass."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import headstart as hs
from headstart.model import inputs
from headstart.model.batch import indivisible
from headstart.model.sample_rule import are_samples

IMAGES = torch.randn(256, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 3
IMAGES[0] /= 60


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def truth(model, x):
    with torch.no_grad():
        return float(model.eval()(x).std(correction=0))


SAMPLES = {
    "stream of pairs": lambda: Stream([(image, 0) for image in IMAGES]),
    "stream of images": lambda: Stream(list(IMAGES)),
    "list of pairs": lambda: [(image, 0) for image in IMAGES],
    "list of images": lambda: list(IMAGES),
    "list of arrays": lambda: [(image.numpy(), np.int64(0)) for image in IMAGES],
    "list of dicts": lambda: [{"input": image, "label": 1} for image in IMAGES],
    "one-hot targets": lambda: [(image, torch.eye(10)[0]) for image in IMAGES],
    "generator": lambda: ((image, torch.tensor(0)) for image in IMAGES),
    "two images": lambda: [IMAGES[0], IMAGES[1]],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_collated_and_the_report_is_about_the_set(name):
    net = nn.Conv2d(3, 4, 3)
    report = hs.initialize(net, SAMPLES[name](), "within-layer")
    used = IMAGES[:2] if name == "two images" else IMAGES
    assert report.row("").output_std == pytest.approx(truth(net, used), rel=1e-4)
    assert report.row("").output_std == pytest.approx(1, rel=1e-3)
    if name == "generator":
        assert report.findings[0] == "Used first 256 samples of the generator."
    assert hs.diagnose(net, SAMPLES[name]()).samples == min(64, len(used))


X, Y = torch.randn(32, 8), torch.zeros(32)
BATCHES = {
    "pairs": [(X, Y), (X, Y)],
    "tensors": [X, X, X],
    "dicts with a number": [{"input": X, "n": 3}],
    "graphs": [(X, torch.randint(32, (2, 99)))],
    "targets of two axes": [(X, Y[:, None])],
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_stay_batches(name):
    batch = inputs.load(BATCHES[name], nn.Linear(8, 4), seed=0)
    assert torch.equal(batch.tensors[0], X)
    assert batch.note == "first 1 batch of the list"


def test_a_tuple_of_inputs_is_one_batch():
    class Two(nn.Linear):
        def forward(self, a, b):
            return super().forward(a) + super().forward(b)

    two, images = Two(8, 4), nn.Conv2d(3, 4, 3)
    for data, model in [((X, X + 1), two), ([X, Y], two), ((IMAGES, IMAGES), images), ([IMAGES, Y], images)]:
        assert inputs.load(data, model, seed=0).size == len(data[0])
    assert inputs.load([IMAGES[:8], IMAGES[8:16]], images, seed=0).size == 8  # inputs and targets, as ever


RULE = {
    "channels first": (torch.zeros(3, 24, 24), nn.Conv2d(3, 4, 3), True),
    "a batch of signals": (torch.zeros(3, 24, 24), nn.Conv1d(24, 4, 3), False),
    "one channel is added in the model": (torch.zeros(32, 24), nn.Conv1d(1, 4, 3), False),
    "lazy": (torch.zeros(3, 24, 24), nn.LazyConv2d(4, 3), True),
    "volumes": (torch.zeros(2, 5, 5, 5), nn.Sequential(nn.BatchNorm3d(2), nn.Conv3d(2, 4, 3)), True),
    "features": (torch.zeros(8), nn.Linear(8, 4), True),
    "tokens of one text": ({"input_ids": torch.arange(9)}, None, True),
    "tokens of a batch": ({"input_ids": torch.zeros(4, 9).long(), "labels": torch.zeros(4)}, None, False),
    "a segmented image": ((torch.zeros(3, 24, 24), torch.zeros(24, 24).long()), None, True),
    "a caption": ((torch.zeros(3, 24, 24), "a cat"), None, True),
    "rows of numbers": ([0.5, 1.5], None, True),
    "nothing known": (object(), None, False),
}


@pytest.mark.parametrize("name", RULE)
def test_the_rule(name):
    first, model, samples = RULE[name]
    assert are_samples([], first, model) is samples


def test_get_inputs_gets_collated_samples():
    seen = []
    data = [{"deep": {"image": image}, "label": 3} for image in IMAGES]

    def get(batch):
        seen.append(batch["deep"]["image"].shape)
        return batch["deep"]["image"]

    assert hs.diagnose(nn.Conv2d(3, 4, 3), data, get_inputs=get).samples == 64
    assert seen == [(64, 3, 12, 12)]


def test_rows_of_lists_as_data_sets_give_them():
    rows = [{"input": [float(i), 1.0, 2.0], "label": i % 2} for i in range(30)]
    batch = inputs.load(rows, nn.Linear(3, 2), seed=0)
    assert batch.kwargs["input"].shape == (30, 3)


def test_samples_of_unequal_lengths_are_refused_with_what_to_do():
    with pytest.raises(hs.DataError, match=r"Samples of the list cannot be stacked.*collate_fn"):
        hs.initialize(nn.Linear(8, 2), [(torch.randn(n, 8), 0) for n in (3, 5)], "lsuv")


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 8)

    def forward(self, x, edge_index):
        x = self.a(x).relu()
        return self.b(torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]))


@pytest.mark.parametrize("options", [{}, {"samples": 100}, {"batch_size": 100}])
def test_a_graph_is_not_cut(options):
    x, edges = torch.randn(3000, 4), torch.randint(3000, (2, 9000))
    net = Graph()
    report = hs.initialize(net, (x, edges), "within-layer", **options)
    with torch.no_grad():
        assert float(net(x, edges).std()) == pytest.approx(1, rel=1e-3)
    assert report.row("b").output_std == pytest.approx(1, rel=1e-3)
    said = "Used all 3000 entries of the first axis, not cut: integers of shape (2, 9000) point into the first axis."
    assert said in report.findings
    assert hs.diagnose(net, (x, edges)).samples == 3000


def test_what_is_a_graph():
    x = torch.zeros(2000, 4)
    assert indivisible((x, torch.randint(2000, (2000, 2)).index_fill(0, torch.tensor([0]), 1999)))
    assert indivisible((x, torch.arange(5), torch.arange(5)))
    assert indivisible((x, torch.zeros(2000, 2000)))
    for other in (torch.randint(10, (2000,)), torch.zeros(7), torch.arange(9)[None], torch.full((2, 9), 2000)):
        assert not indivisible((x, other))
    assert not indivisible({"ids": torch.zeros(64, 9).long(), "position_ids": torch.arange(9)[None]})


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(8, 8)

    def forward(self, x, mask):
        return (x @ x.mT + mask).softmax(-1) @ self.f(x)


def test_masks_of_minus_infinity_pass():
    x, mask = torch.randn(16, 5, 8), torch.full((5, 5), float("-inf")).triu(1)
    net = Attends()
    calls = ({"data": (x, mask)}, {"data": {"x": x, "mask": mask - 0.5}})
    for call in (*calls, {"data": [{"t": x}], "get_inputs": lambda b: (b["t"], mask)}):
        assert hs.initialize(net, method="lsuv", **call).changed == ["f"]
        assert float(net.f(x).detach().std()) == pytest.approx(1, rel=0.05)
    assert hs.diagnose(net, (x, mask)).row("f").output_std == pytest.approx(1, rel=0.05)


def test_minus_infinity_in_data_is_refused():
    x = torch.randn(16, 5, 8)

    class Adds(nn.Linear):
        def forward(self, x, other):
            return super().forward(x + other)

    nan = torch.full((5, 5), float("nan"))
    for model, data in [(Adds(8, 8), (x.sign().log(), x)), (Adds(8, 8), (x, x.relu().log())), (Attends(), (x, nan))]:
        with pytest.raises(hs.DataError, match="NaN or infinite"):
            hs.initialize(model, data, "lsuv")
    with pytest.raises(hs.DataError, match="constant"):
        hs.initialize(Attends(), (torch.ones(16, 5, 8), torch.full((5, 5), float("-inf")).triu(1)), "lsuv")
