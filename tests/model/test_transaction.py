"""Whatever a forward pass does to what a model holds, a call takes it back: all of it, in success and in failure."""

import copy
import random
from collections import OrderedDict, deque

import numpy as np
import pytest
import torch
from torch import nn

import headstart as hs
from headstart import rng
from headstart.model.transaction import Transaction
from headstart.restoring import every

X = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))


class Home(nn.Module):
    """Two layers, state of every kind, and a forward that disturbs it between the layers."""

    def __init__(self, disturb=lambda m, y: None, error=None):
        super().__init__()
        self.f, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.register_buffer("seen", torch.arange(4.0))
        self.register_buffer("view", self.seen[1:])
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.register_buffer("graph", torch.eye(3).to_sparse())
        self.register_buffer("spread", torch.ones(1).expand(5))
        self.p = nn.Parameter(torch.tensor([0.0, float("nan"), 2.0]))
        self.p.grad = torch.full((3,), 5.0)
        self.f.weight.grad = torch.full((8, 8), 3.0)
        self.spare = nn.Sequential(nn.LayerNorm(8))
        self.tied = nn.Module()
        self.tied.p = self.p
        self.plain, self.number, self.nothing = torch.zeros(2, 3).t(), 1, None
        self.items, self.table = [torch.zeros(2)], {"a": {"b": torch.zeros(2)}}
        self.recent, self.names, self.pair = deque([1, 2], maxlen=2), {"x"}, (torch.zeros(2), [1])
        self.ordered = OrderedDict(first=1, second=2)
        self.generator = torch.Generator().manual_seed(1)
        self.kept = self.f.weight.detach()  # the memory of a weight under another name
        self.disturb, self.error = disturb, error

    def forward(self, x):
        y = self.f(x)
        self.disturb(self, y)
        if self.error is not None and len(x) > 2:
            raise self.error
        return self.head(y.relu())


def tensors_of(value, found):
    """All tensors in modules, containers and gradients, by walking."""
    if isinstance(value, torch.Tensor):
        if id(value) not in found:
            found[id(value)] = value
            if value.is_leaf:
                tensors_of(value.grad, found)
    elif isinstance(value, nn.Module):
        for child in value.modules():
            tensors_of(list(vars(child).values()), found)
    elif isinstance(value, dict):
        tensors_of(list(value.values()), found)
    elif isinstance(value, (list, tuple, deque, set)):
        for item in value:
            tensors_of(item, found)
    return found


def shape_of(value):
    """What a value is, so that it compares equal only to itself: objects by identity, containers by their items."""
    if isinstance(value, dict):
        return id(value), [(key, shape_of(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque, set)):
        return id(value), [shape_of(item) for item in value]
    return value if isinstance(value, (int, float, str)) else id(value)


class Before:
    """The model as it is; written without the library's own ways to look."""

    def __init__(self, model):
        self.model, self.modules = model, list(model.modules())
        self.facts = self.look()
        self.tensors = list(tensors_of(model, {}).values())
        self.places = [t.detach() for t in self.tensors]
        self.forms = [self.form(t) for t in self.tensors]
        self.values = [t.detach().clone() for t in self.tensors]
        self.state = model.generator.get_state()

    def look(self):
        return [(type(m), [(key, shape_of(value)) for key, value in vars(m).items()]) for m in self.modules], list(
            self.model.state_dict()
        )

    @staticmethod
    def form(t):
        storage = None if t.is_sparse else t.untyped_storage().nbytes()
        place = None if t.is_sparse else (t.stride(), t.storage_offset())
        hooks = [None if h is None else list(h) for h in (t._backward_hooks, t._post_accumulate_grad_hooks)]
        return type(t), t.shape, place, t.dtype, storage, t.requires_grad, t.is_leaf, id(t.grad), hooks, dict(vars(t))

    def require_kept(self, but=()):
        """All but the values of these tensors, and of what lies in the same memory."""
        assert self.look() == self.facts
        assert torch.equal(self.model.generator.get_state(), self.state)
        free = {t.data_ptr() for t in but}
        for tensor, place, form, value in zip(self.tensors, self.places, self.forms, self.values, strict=True):
            assert self.form(tensor) == form
            if tensor.is_sparse:
                torch.testing.assert_close(tensor.to_dense(), value.to_dense(), rtol=0, atol=0)
                continue
            assert tensor.is_set_to(place), "it lies elsewhere, so that it no longer shares memory"
            same = torch.equal(tensor.detach().contiguous().view(torch.uint8), value.contiguous().view(torch.uint8))
            assert same or tensor.data_ptr() in free


def drop(holder, key):
    holder.pop(key, None)


def move(model, key, to):
    tensor = model._buffers.pop(key, None)
    if tensor is not None:
        to(tensor)


def with_gradients(action):
    with torch.enable_grad():
        action()


DISTURBANCES = {
    "nothing": lambda m, y: None,
    "resized to more": lambda m, y: m.seen.resize_(len(y), 3).fill_(1),
    "resized to less": lambda m, y: m.seen.resize_(1).fill_(9),
    "resized to nothing": lambda m, y: m.seen.resize_(0),
    "memory given away": lambda m, y: m.seen.untyped_storage().resize_(0),
    "a view resized": lambda m, y: m.view.resize_(30).fill_(4),
    "transposed": lambda m, y: m.plain.t_(),
    "other memory": lambda m, y: m.seen.set_(torch.ones(7)),
    "other shape": lambda m, y: setattr(m.seen, "data", torch.ones(2, 2)),
    "other type": lambda m, y: setattr(m.seen, "data", torch.ones(4, dtype=torch.float64)),
    "same form elsewhere": lambda m, y: setattr(m.seen, "data", m.seen.data + 1),
    "same values elsewhere": lambda m, y: setattr(m.seen, "data", m.seen.data.clone()),
    "other memory for a parameter": lambda m, y: setattr(m.p, "data", torch.ones(3, 3)),
    "other memory for a weight": lambda m, y: setattr(m.f.weight, "data", m.f.weight.data.clone()),
    "other memory for a later weight": lambda m, y: setattr(m.head.weight, "data", m.head.weight.data.clone()),
    "other type for a parameter": lambda m, y: setattr(m.p, "data", m.p.data.double()),
    "written": lambda m, y: m.seen.add_(1),
    "written uncounted": lambda m, y: m.p.data.add_(1),
    "a zero's sign": lambda m, y: m.p.data[0].neg_(),
    "sparse": lambda m, y: m.graph.mul_(2),
    "sparse, more entries": lambda m, y: m.graph.add_(torch.ones(3, 3).to_sparse()),
    "what is expanded": lambda m, y: m.spread[:1].fill_(7),
    "with the graph of the pass": lambda m, y: m.seen.add_(y.sum()),
    "a view with the graph of the pass": lambda m, y: m.view.add_(y.sum()),
    "taken away": lambda m, y: drop(m._buffers, "seen"),
    "a parameter taken away": lambda m, y: drop(m._parameters, "p"),
    "an attribute taken away": lambda m, y: drop(vars(m), "plain"),
    "a new buffer": lambda m, y: m.register_buffer("late", y.detach()),
    "a new parameter": lambda m, y: m.register_parameter("late", nn.Parameter(y.detach())),
    "replaced": lambda m, y: setattr(m, "seen", torch.ones(9)),
    "none": lambda m, y: setattr(m, "seen", None),
    "another name": lambda m, y: move(m, "seen", lambda t: m.register_buffer("other", t)),
    "a buffer made an attribute": lambda m, y: move(m, "seen", lambda t: setattr(m, "other", t)),
    "a buffer made a parameter": lambda m, y: move(m, "seen", lambda t: m.register_parameter("seen", nn.Parameter(t))),
    "another place": lambda m, y: move(m, "seen", lambda t: m.tied.register_buffer("seen", t)),
    "no longer saved": lambda m, y: m._non_persistent_buffers_set.add("seen"),
    "saved": lambda m, y: m._non_persistent_buffers_set.clear(),
    "frozen": lambda m, y: m.p.requires_grad_(False),
    "a buffer that trains": lambda m, y: m.seen.requires_grad_(True),
    "a new gradient": lambda m, y: setattr(m.head.weight, "grad", torch.ones(4, 8)),
    "a gradient written": lambda m, y: m.spare and [p.grad.add_(1) for p in m.parameters() if p.grad is not None],
    "a gradient resized": lambda m, y: [p.grad.data.resize_(0) for p in m.parameters() if p.grad is not None],
    "no gradient": lambda m, y: m.zero_grad(),
    "a backward pass": lambda m, y: with_gradients(lambda: (m.p * 2).sum().backward()),
    "a hook": lambda m, y: m.f.register_forward_hook(lambda *_: None),
    "hooks taken away": lambda m, y: m.spare._forward_hooks.clear(),
    "another dict of hooks": lambda m, y: setattr(m.spare, "_forward_hooks", OrderedDict()),
    "a tensor's hook": lambda m, y: m.p.requires_grad and m.p.register_hook(lambda g: g),
    "a tensor's attribute": lambda m, y: setattr(m.seen, "flag", 1),
    "a new module": lambda m, y: m.add_module("late", nn.Linear(8, 8)),
    "a module taken away": lambda m, y: drop(m._modules, "spare"),
    "a module replaced": lambda m, y: setattr(m, "spare", nn.Identity()),
    "a module of another class": lambda m, y: setattr(m.spare, "__class__", nn.Identity),
    "training": lambda m, y: m.train(not m.training),
    "a number": lambda m, y: setattr(m, "number", m.number + 1),
    "a new attribute": lambda m, y: setattr(m, "late", y),
    "an attribute written": lambda m, y: m.plain.add_(1),
    "an attribute resized": lambda m, y: m.plain.resize_(100),
    "an attribute's memory": lambda m, y: setattr(m.plain, "data", torch.ones(1)),
    "a list": lambda m, y: m.items.append(y),
    "a list emptied": lambda m, y: m.items.clear(),
    "a list's tensor": lambda m, y: m.items and m.items[0].resize_(7).fill_(1),
    "a dict": lambda m, y: m.table.setdefault("a", {}).setdefault("b", y).fill_(3),
    "a dict replaced inside": lambda m, y: m.table.update(a={}),
    "a tuple's": lambda m, y: m.pair[0].add_(1) is m.pair[1].append(2),
    "a deque": lambda m, y: m.recent.append(len(y)),
    "a set": lambda m, y: m.names.add(len(y)),
    "order": lambda m, y: m.ordered.move_to_end("first"),
    "random numbers": lambda m, y: torch.rand(2, generator=m.generator),
    "several at once": lambda m, y: [
        m.seen.resize_(len(y)),
        drop(m._parameters, "p"),
        m.items.append(y),
        setattr(m.f.weight, "data", m.f.weight.data.clone()),
        m.add_module("late", nn.Identity()),
    ],
}


@pytest.mark.parametrize("name", DISTURBANCES)
def test_what_a_forward_disturbs_is_as_before(name):
    model = Home(DISTURBANCES[name])
    model.spare[0].eval()
    model.spare.register_forward_hook(lambda *_: None)
    before = Before(model)
    for method in ("lsuv", "within-layer"):
        assert {"f.weight", "head.weight"} <= set(hs.compute(model, X, method).tensors)
        before.require_kept()
    hs.diagnose(model, X)
    before.require_kept()
    for error in (ValueError("no"), KeyboardInterrupt(), SystemExit(3)):
        model.error, before.facts = error, None
        before.facts = before.look()
        for call in (lambda: hs.initialize(model, X, "lsuv"), lambda: hs.diagnose(model, X)):
            with pytest.raises(hs.ModelError if isinstance(error, ValueError) else type(error)) as caught:
                call()
            assert isinstance(error, ValueError) or caught.value is error
            before.require_kept()
    model.error = None
    before.facts = before.look()
    for method, options in (("lsuv", {}), ("within-layer", {"batch_size": 20}), ("kaiming", {})):
        old = model.f.weight.detach().clone()
        report = hs.initialize(model, X, method, **options)
        assert report.changed == ["f", "head"]
        before.require_kept([model.f.weight, model.f.bias, model.head.weight, model.head.bias])
        assert not torch.equal(model.f.weight, old), "taken back through what shares its memory"


@pytest.mark.parametrize(
    "method", ["auto", "balance", "within-layer+balance", "orthogonal+lsuv:fill=keep", "calibrate"]
)
@pytest.mark.parametrize(
    "name", ["resized to more", "written uncounted", "a list", "several at once", "same form elsewhere"]
)
def test_methods_of_several_passes(name, method):
    model = Home(DISTURBANCES[name])
    before = Before(model)
    hs.compute(model, X, method)
    before.require_kept()
    report = hs.initialize(model, X, method)
    layers = [model.get_submodule(n) for n in report.changed]
    before.require_kept([p for layer in layers for p in layer.parameters()])


def test_the_same_bits_as_without_the_disturbance():
    with torch.random.fork_rng():
        plain, disturbed = (
            torch.manual_seed(0) and Home(DISTURBANCES[name]) for name in ("nothing", "several at once")
        )
    for model in (plain, disturbed):
        hs.initialize(model, X, "within-layer")
    assert torch.equal(plain.f.weight, disturbed.f.weight)
    assert torch.equal(plain.head.weight, disturbed.head.weight)


class Remembers(nn.Module):
    """Cuts the graph of what it remembers: that cannot be mended in place."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(8, 8)
        self.a, self.z = torch.zeros(2), torch.zeros(2)
        self.state = torch.zeros(3, requires_grad=True) * 2
        self.other = torch.zeros(3, requires_grad=True) * 2

    def forward(self, x):
        for tensor in (self.a, self.z):
            tensor.add_(1)
        self.state.detach_()
        self.other.detach_()
        return self.f(x)


@pytest.mark.parametrize("call", [hs.initialize, hs.compute, hs.diagnose])
def test_what_cannot_be_restored_is_named_and_keeps_nothing_else_from_it(call):
    model = Remembers().train()
    weight = model.f.weight.detach().clone()
    with pytest.raises(hs.ModelError, match=r"'state' \(it was detached.*'other' \(it was detached") as caught:
        call(model, X)
    assert "'a'" not in str(caught.value)
    assert torch.equal(model.f.weight, weight)
    assert model.training
    assert not model.a.any()
    assert not model.z.any()


def test_the_error_before_is_told_too():
    model = Remembers()
    model.f.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(hs.ModelError, match=r"cannot be restored: 'state'.*ZeroDivisionError") as caught:
        hs.initialize(model, X, "lsuv")
    assert isinstance(caught.value.__cause__, hs.ModelError)
    assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)


def test_an_interrupt_stays_one_even_then():
    model = Remembers()

    def stop(*_):
        raise KeyboardInterrupt

    model.f.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        hs.initialize(model, X, "lsuv")
    assert "'state'" in str(caught.value.__cause__)
    assert not model.a.any()


def test_every_step_is_taken():
    taken = []

    def fails():
        raise RuntimeError("no")

    def waits():  # for what comes later
        if "last" not in taken:
            raise RuntimeError("not yet")
        taken.append("waited")

    def is_stopped():
        if taken.count("stopped") == 0:
            taken.append("stopped")
            raise KeyboardInterrupt
        taken.append("went on")

    steps = [("a", fails), ("b", waits), ("c", is_stopped), ("d", lambda: taken.append("last"))]
    failures, interrupt = every(steps)
    assert [(name, str(error)) for name, error in failures] == [("a", "no")]
    assert isinstance(interrupt, KeyboardInterrupt)
    assert taken == ["stopped", "last", "waited", "went on"]


def test_a_weight_that_the_forward_replaces_is_no_place_to_write_to():
    model = Home(lambda m, y: setattr(m.head, "weight", nn.Parameter(m.head.weight.detach().clone())))
    before = Before(model)
    for call in (hs.initialize, hs.compute):
        with pytest.raises(hs.WriteError, match=r"another tensor in the place of layer 'head'"):
            call(model, X, "lsuv")
        before.require_kept()


def test_a_weight_whose_shape_the_forward_changes_is_refused():
    model = Home(lambda m, y: setattr(m.f.weight, "data", m.f.weight.data[:4]))
    before = Before(model)
    for call in (hs.initialize, hs.compute):
        with pytest.raises(hs.HeadstartError):
            call(model, X, "lsuv")
        before.require_kept()


def test_an_evaluation_mode_that_fails_leaves_the_model():
    class Fails(Home):
        def train(self, mode=True):
            super().train(mode)
            if not mode:
                raise RuntimeError("always trains")
            return self

    model = Fails()
    before = Before(model)
    with pytest.raises(hs.ModelError, match="evaluation mode: RuntimeError: always trains"):
        hs.initialize(model, X, "lsuv")
    before.require_kept()
    assert torch.backends.mha.get_fastpath_enabled()


def test_nothing_is_kept_if_the_last_action_fails():
    model = Home()
    before = Before(model)

    def fails():
        raise hs.HeadstartError("the file cannot be removed")

    def change():
        with Transaction(model) as transaction, torch.no_grad():
            transaction.mark_tensor(model.p)
            model.p.fill_(1)
            transaction.at_success(fails)
            transaction.commit()

    with pytest.raises(hs.HeadstartError, match="file"):
        change()
    before.require_kept()


def test_a_written_buffer_that_the_forward_replaces_gets_its_last_values():
    model = Home()
    before, seen = Before(model), model.seen
    with Transaction(model) as transaction:
        transaction.mark_tensor(model.seen)
        model.seen = model.seen + 1
        transaction.commit()
    assert model.seen is seen
    before.require_kept([seen, model.view])
    assert seen.tolist() == [1, 2, 3, 4]


def test_lazy_models_are_lazy_again_whatever_ends_the_call():
    class Stops(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = torch.zeros(1)

        def forward(self, x):
            self.count.resize_(5)
            if len(x) > 2:
                raise KeyboardInterrupt
            return x

    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), Stops(), nn.LazyLinear(2))
    kinds = [(type(m), sorted(vars(m)), len(m._forward_pre_hooks)) for m in model.modules()]
    for call in (
        lambda: hs.initialize(model, X, "lsuv"),
        lambda: hs.compute(model, X, "lsuv"),
        lambda: hs.diagnose(model, X),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()
        assert [(type(m), sorted(vars(m)), len(m._forward_pre_hooks)) for m in model.modules()] == kinds
        assert model[2].count.shape == (1,)
    model[2] = nn.ReLU()
    model.eval()[:3].train()
    hs.diagnose(model, X)
    hs.compute(model, X, "lsuv")
    assert type(model[0]) is nn.LazyLinear
    twin = copy.deepcopy(nn.Sequential(model[0], model[3]))
    hs.initialize(nn.Sequential(twin[0], nn.ReLU(), twin[1]), X, "lsuv")
    report = hs.initialize(model, X, "lsuv")
    assert report.changed == ["0", "3"]
    assert [type(m) for m in model] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [m.training for m in model] == [True, True, True, False]
    assert model[1].num_batches_tracked == 0
    assert not model[0]._forward_pre_hooks
    model(X)


def test_statistics_that_the_forward_resizes():
    class Resizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.norm, self.head = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

        def forward(self, x):
            y = self.norm(self.f(x))
            if len(x) > 2:
                self.norm.running_mean.resize_(30).fill_(7)
            return self.head(y)

    model = Resizes()
    for call in (lambda: hs.initialize(model, X, "lsuv"), lambda: hs.diagnose(model, X)):
        call()
        assert torch.equal(model.norm.running_mean, torch.zeros(8))
        assert model.norm.training


def test_random_states_come_back_one_by_one(monkeypatch):
    def fails(state):
        raise RuntimeError("device lost")

    numpy_state, python_state = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng():
        with pytest.raises(hs.ModelError, match=r"torch's random state' \(device lost\)"), rng.untouched(3):
            monkeypatch.setattr(torch, "set_rng_state", fails)
        monkeypatch.undo()
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    assert random.getstate() == python_state


def test_what_cannot_be_written_keeps_nothing_else_written():
    model = Home()
    before = Before(model)
    with pytest.raises(hs.WriteError, match="'spread' cannot be written: unsupported operation"):
        hs.apply(model, hs.Init({"head.bias": torch.ones(4), "spread": torch.arange(5.0)}))
    before.require_kept()


def test_folding_goes_back_as_far_as_it_can():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))
    for _ in range(3):
        model(X)
    norms, weight = [model[1], model[4]], model[0].weight.detach().clone()
    folded = hs.fold_batch_norms(model, X)
    assert set(folded.layers) == {"1", "4"}
    model[3].weight.data = torch.zeros(3)  # by the user
    with pytest.raises(hs.ModelError, match="cannot be restored: '3'"):
        folded.undo()
    assert [model[1], model[4]] == norms
    assert torch.equal(model[0].weight, weight)
