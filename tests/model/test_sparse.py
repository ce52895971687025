"""Sparse data is made dense as far as memory allows, or refused."""

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.model.sparse import dense, holds_sparse, rows

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).relu()
LAYOUTS = {
    "COO": lambda t: t.to_sparse(),
    "CSR": lambda t: t.to_sparse_csr(),
    "CSC": lambda t: t.to_sparse_csc(),
}
pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")


def layer():
    torch.manual_seed(0)
    return nn.Linear(8, 4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits_as_of_dense_data(layout):
    x = LAYOUTS[layout](X)
    for given in (x, (x, torch.zeros(64)), {"input": x}):
        sparse, plain = layer(), layer()
        hs.initialize(sparse, given, "lsuv")
        hs.initialize(plain, X, "lsuv")
        assert torch.equal(sparse.weight, plain.weight)
    assert hs.diagnose(layer(), x).row("").output_std == hs.diagnose(layer(), X).row("").output_std


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_samples_that_are_drawn_are_made_dense(layout):
    many = X.repeat(40, 1) + torch.arange(2560)[:, None] % 3
    sparse, plain = layer(), layer()
    report = hs.initialize(sparse, LAYOUTS[layout](many), "lsuv")
    hs.initialize(plain, many, "lsuv")
    assert torch.equal(sparse.weight, plain.weight)
    assert "1024 of 2560 samples" in report.findings[0]


def test_from_data_sets_loaders_and_get_inputs():
    rows_of = [(row.to_sparse(), 0) for row in X]
    loader = torch.utils.data.DataLoader(rows_of, 16, collate_fn=lambda b: torch.stack([r for r, _ in b]))
    for given, options in (
        (rows_of, {}),
        (loader, {"samples": 64}),
        ({"x": X}, {"get_inputs": lambda d: d["x"].to_sparse()}),
    ):
        data = torch.utils.data.StackDataset(*zip(*given, strict=True)) if given is rows_of else given
        report = hs.initialize(layer(), data, "lsuv", **options)
        assert report.row("").output_std == pytest.approx(1, abs=1e-5)


def test_what_would_not_fit_is_refused():
    huge = torch.sparse_coo_tensor(
        torch.tensor([[0, 999], [5, 7]]), torch.tensor([1.0, 2.0]), (1000, 10_000_000), check_invariants=True
    )
    model = nn.Linear(8, 4)
    before = model.weight.detach().clone()
    for call in (hs.initialize, hs.diagnose):
        with pytest.raises(hs.DataError, match=r"sparse tensor of shape \(\d+, 10000000\).*the limit is 512 MB"):
            call(model, huge)
    assert torch.equal(model.weight, before)
    with pytest.raises(hs.DataError):
        dense(huge, 1)


def test_the_limit_is_the_callers():
    """0.5 MB once dense; of a data set the whole batch counts, not each sample."""
    x = torch.eye(128, 1024).to_sparse()
    loader = torch.utils.data.DataLoader([x], batch_size=None)
    samples = list(torch.eye(1024).to_sparse())[:512]  # 2 MB
    for call in (hs.initialize, hs.compute, hs.diagnose):
        more = () if call is hs.diagnose else ("lsuv",)
        for data, least in ((x, 1), (loader, 1), (samples, 2)):
            call(nn.Linear(1024, 4), data, *more, memory_limit=least, samples=None if data is not samples else 512)
        with pytest.raises(hs.DataError, match=r"shape \(512, 1024\), which takes 2 MB once dense; the limit is 1 MB"):
            call(nn.Linear(1024, 4), samples, *more, memory_limit=1, samples=512)
        with pytest.raises(hs.DataError, match="memory_limit=0 is not positive"):
            call(nn.Linear(1024, 4), x, *more, memory_limit=0)


def test_rows():
    index = torch.tensor([3, 1])
    for make in LAYOUTS.values():
        assert torch.equal(dense(rows(make(X), index)), X[index])
    assert holds_sparse([{"a": (1, X.to_sparse())}])
    assert not holds_sparse([X, "text", None])
