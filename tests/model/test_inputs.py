"""Every form of data becomes one checked batch."""

import collections

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import headstart as hs
from headstart.model import inputs

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12)


class One(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)


class Two(One):
    def forward(self, a, b, scale=1.0):
        return super().forward(a) + super().forward(b)


class Named(One):
    def forward(self, image, mask=None):
        return super().forward(image)


class Open(One):
    def forward(self, **batch):
        return super().forward(batch["x"])


class Rest(One):
    def forward(self, *parts):
        return super().forward(parts[0])


def load(data, model=None, **options):
    return inputs.load(data, model or One(), seed=0, **options)


FORMS = {
    "tensor": (X, None),
    "pair": ((X, Y), None),
    "list pair": ([X, Y], None),
    "triple": ((X, Y, Y), None),
    "numpy": (X.numpy(), None),
    "numpy pair": ((X.numpy(), Y.numpy()), None),
    "float64 numpy": (X.double().numpy(), None),
    "list of batches": ([(X, Y), (X + 1, Y)], None),
    "generator": ((b for b in [X, X + 1]), None),
    "loader": (DataLoader(TensorDataset(X, Y), batch_size=12), None),
    "requires grad": (X.clone().requires_grad_(), None),
    "dict inside a list": ([{"image": X, "label": Y}], Named),
    "unknown key": ({"anything": X}, Open),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_input_is_found(name):
    data, model = FORMS[name]
    batch = load(data, model and model())
    found = [*batch.args, *batch.kwargs.values()]
    assert len(found) == 1
    assert torch.equal(found[0], X)
    assert found[0].dtype == torch.float32
    assert not found[0].requires_grad
    assert batch.size == 12


@pytest.mark.parametrize(
    "data",
    [(X, X + 1), (X, X + 1, Y), ((X, X + 1), Y), [(X, X + 1)], {"a": X, "b": X + 1, "labels": Y}, {"b": X + 1, "a": X}],
)
def test_two_inputs(data):
    batch = load(data, Two())
    found = batch.args or (batch.kwargs["a"], batch.kwargs["b"])
    assert torch.equal(found[0], X)
    assert torch.equal(found[1], X + 1)
    assert len(batch.args) + len(batch.kwargs) == 2


def test_optional_arguments_are_taken_from_dicts_only():
    assert len(load((X, X > 0), Named()).args) == 1
    assert set(load({"image": X, "mask": X > 0, "label": Y}, Named()).kwargs) == {"image", "mask"}


def test_open_ended_forwards_get_everything_but_targets():
    assert set(load({"x": X, "extra": X, "labels": Y, "target": Y}, Open()).kwargs) == {"x", "extra"}
    assert len(load((X, Y), Rest()).args) == 1


def test_a_dict_goes_whole_to_a_model_that_knows_none_of_its_keys():
    batch = load({"pixels": X}, Named())
    assert torch.equal(batch.args[0]["pixels"], X)


def test_structures_keep_their_kind():
    pair = collections.namedtuple("pair", "left right")
    batch = load([{"image": pair(X, [X, "text", None])}], Named())
    found = batch.kwargs["image"]
    assert type(found) is pair
    assert found.right[1:] == ["text", None]


def test_integers_keep_their_dtype_and_floats_take_the_models():
    model = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 2)).double()
    assert load(Y, model).args[0].dtype == torch.int64
    assert load(X, model).args[0].dtype == torch.float64
    model[1].half()
    assert load(X, model).args[0].dtype == torch.float32, "mixed models get data as it is"


def test_the_batch_is_a_copy():
    batch = load(X)
    batch.args[0].add_(1)
    assert torch.equal(X, load(X).args[0])
    array = np.ones((12, 4), dtype=np.float32)
    load(array).args[0].add_(1)
    assert (array == 1).all()
    array.flags.writeable = False
    load(array).args[0].add_(1)
    assert (array == 1).all()


def test_large_tensors_are_drawn_from_by_the_seed():
    many = torch.arange(3000.0).unsqueeze(1)
    one, again = load((many, torch.zeros(3000))), load(many)
    assert torch.equal(one.args[0], again.args[0])
    assert len(set(one.args[0].flatten().tolist())) == 1024
    assert not torch.equal(one.args[0], inputs.load(many, One(), seed=1).args[0])
    assert one.note == "1024 of 3000 samples, drawn by seed"
    assert len(load(many, samples=10).args[0]) == 10
    assert len(load(many, samples=5000).args[0]) == 3000


def test_a_draw_keeps_inputs_together():
    a, b = torch.arange(2000.0).unsqueeze(1), torch.arange(2000.0).unsqueeze(1)
    batch = load((a, b), Two(), samples=50)
    assert torch.equal(batch.args[0], batch.args[1])


def test_a_loader_gives_its_first_batch_or_as_many_as_asked():
    loader = DataLoader(TensorDataset(X, Y), batch_size=5)
    assert torch.equal(load(loader).args[0], X[:5])
    assert torch.equal(load(loader, samples=7).args[0], X[:7])
    assert torch.equal(load(loader, samples=99).args[0], X)
    assert load(loader, samples=7).note == "first 2 batches of the DataLoader"
    dicts = [{"image": X[:5], "n": 3}, {"image": X[5:], "n": 4}]
    assert torch.equal(load(dicts, Named(), samples=9).kwargs["image"], X[:9])


def test_batches_that_cannot_be_joined_are_told():
    with pytest.raises(hs.DataError, match=r"cannot be joined to 9 samples.*samples=None"):
        load([torch.zeros(4, 3), torch.zeros(5, 2)], samples=9)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_peeking_moves_no_generator_of_a_loader(workers):
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(X), batch_size=4, shuffle=True, generator=generator, num_workers=workers)
    state = generator.get_state()
    one, two = load(loader).args[0], load(loader).args[0]
    assert torch.equal(one, two)
    assert torch.equal(generator.get_state(), state)


class Squares(Dataset):
    def __init__(self, n, value=lambda i: torch.full((4,), float(i))):
        self.n, self.value = n, value

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.value(i), i


def test_a_dataset_is_drawn_from():
    batch = load(Squares(1000))
    assert batch.size == 256
    assert len(set(batch.args[0][:, 0].tolist())) == 256
    assert batch.note == "256 of 1000 samples, drawn by seed"
    assert load(Squares(9)).size == 9


class Stream(IterableDataset):
    def __iter__(self):
        return iter([X, X])


def test_a_stream_gives_samples():
    assert torch.equal(load(Stream()).args[0], torch.stack([X, X]))


def test_get_inputs():
    assert torch.equal(load([{"deep": (Y, X)}], get_inputs=lambda b: b["deep"][1]).args[0], X)
    assert load([1], get_inputs=lambda b: {"image": X}).kwargs.keys() == {"image"}
    assert len(load([1], get_inputs=lambda b: (X, X)).args) == 2
    with pytest.raises(hs.DataError, match=r"get_inputs failed on the batch: KeyError: 'wrong'"):
        load({"right": X}, get_inputs=lambda b: b["wrong"])


class NoLength(Dataset):
    def __getitem__(self, i):
        return X[i]


REFUSED = {
    "number": (3, "type int is not understood"),
    "object": (object(), "type object is not understood"),
    "none inside": ([None], "holds no tensor"),
    "text": ("images.pt", "holds no tensor"),
    "empty tuple": ((), "empty"),
    "empty list": ([], "The list is empty"),
    "empty dict": ({}, "holds no tensor"),
    "empty tensor": (X[:0], "empty"),
    "no columns": (torch.zeros(3, 0), "empty"),
    "no axis": (torch.tensor(1.0), "empty"),
    "empty dataset": (Squares(0), "The Squares is empty"),
    "empty loader": (DataLoader(Squares(3), batch_size=8, drop_last=True), "The DataLoader is empty"),
    "no length": (NoLength(), "no length"),
    "ragged dataset": (Squares(4, lambda i: torch.zeros(i + 1)), "cannot be stacked"),
    "text array": (np.array(["a", "b"]), "not numeric"),
    "object array": (np.array([None, 1]), "not numeric"),
    "dates": (np.zeros(3, "M8[s]"), r"dtype datetime64\[s\] is not numeric"),
    "nan": (X.index_fill(0, torch.tensor([1]), float("nan")), r"4 NaN or infinite values of 48 \(shape \(12, 4\)\)"),
    "infinity": (X / 0, "48 NaN or infinite"),
    "nan in the second input": ((X, X * float("nan")), "48 NaN"),
    "beyond float16": (X * 1e6, "NaN or infinite"),
}


def test_arrays_of_the_other_order_of_bytes_are_read():
    array = np.arange(12.0).reshape(3, 4)
    assert torch.equal(load(array.astype(">f8"), One()).args[0], torch.from_numpy(array).float())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_data_is_refused(name):
    data, message = REFUSED[name]
    model = One().half() if name == "beyond float16" else Two() if "second" in name else One()
    with pytest.raises(hs.HeadstartError, match=message):
        load(data, model)


@pytest.mark.parametrize("samples", [0, -1, 1.5, "3"])
def test_samples_must_be_a_count(samples):
    with pytest.raises(hs.DataError, match="samples="):
        load(X, samples=samples)


CONSTANT = {
    "zeros": torch.zeros(9, 4),
    "one value": torch.full((9, 4), 0.3),
    "one sample repeated": X[:1].expand(9, -1),
    "integers": torch.full((9, 4), 3),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_data(name):
    batch = inputs.Batch((CONSTANT[name],))
    with pytest.raises(hs.DataError, match=r"The batch is constant: inputs of shape \(9, 4\)"):
        inputs.require_variation(batch)


@pytest.mark.parametrize(
    "tensors",
    [(X,), (torch.zeros(12, 4), X), (torch.tensor([[1, 2], [1, 2]]),), (X[:1],)],
    ids=["varied", "one of two varies", "token numbers", "one sample"],
)
def test_varied_data_passes(tensors):
    assert inputs.require_variation(inputs.Batch(tensors)) is None  # an error otherwise


def test_head_cuts_every_tensor_of_the_batch_and_copies():
    batch = inputs.Batch((X, torch.eye(3)), {"mask": X > 0, "flag": True})
    head = batch.head(2)
    assert [t.shape[0] for t in head.tensors] == [2, 3, 2]
    assert head.kwargs["flag"] is True
    head.args[0].zero_()
    assert X[0].abs().sum() > 0


def test_a_dataset_of_arrays():
    data = Squares(30, lambda i: np.full((4,), i, dtype=np.float64))
    assert hs.initialize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), data, "lsuv").changed == ["0", "1"]
