"""Starts by training: stages, samples, what is left of them, and what is not."""

import copy
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import headstart as hs
from headstart import rng
from headstart.errors import HeadstartError
from headstart.fitting.classify import Classify

N, CLASSES = 200, 4
X = torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = X.mean((2, 3)).argmax(1) + (X[:, 0, 0, 0] > 1.2).long()
DATA = TensorDataset(X, Y)


def net(seed=0):
    with rng.untouched():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(),
            nn.Dropout(0.2), nn.Flatten(), nn.Linear(96, CLASSES),
        )  # fmt: skip


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def quick(**options):
    return hs.SmartInit(**{"fractions": (0.1, 0.5), "epochs": 2, "batch_size": 8, **options})


class Recorder:
    """A user's training: counts, and moves the weights a little."""

    def __init__(self):
        self.calls, self.optimizers = [], []

    def __call__(self, model, dataset, epochs):
        assert model.training
        assert torch.is_grad_enabled()
        assert all(p.grad is None for p in model.parameters())
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        self.optimizers.append(len(optimizer.state))
        self.calls.append((list(dataset.indices), epochs))
        for x, y in DataLoader(dataset, batch_size=16):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()


def test_steps_of_a_stage_are_epochs_times_batches():
    steps = []

    class Counting(Classify):
        def __call__(self, *args, **kwargs):
            steps.append(super().__call__(*args, **kwargs))
            return steps[-1]

    report = hs.initialize(net(), DATA, quick(fractions=(0.1, 0.33), epochs=3, fit=Counting(batch_size=8)))
    assert steps == [3 * math.ceil(20 / 8), 3 * math.ceil(66 / 8)]
    own = hs.initialize(net(), DATA, quick(fractions=(0.1, 0.33), epochs=3))
    assert f"{sum(steps)} steps" in " ".join(own.findings)
    assert "20 samples" in " ".join(report.findings)


def test_every_stage_starts_with_a_new_optimizer_and_its_own_sample():
    fit = Recorder()
    hs.initialize(net(), DATA, hs.SmartInit(fractions=(0.1, 0.5), epochs=7, fit=fit))
    assert fit.optimizers == [0, 0]
    assert [len(set(indices)) for indices, _ in fit.calls] == [20, 100]
    assert [epochs for _, epochs in fit.calls] == [7, 7]


@pytest.mark.parametrize("draw", ["nested", "disjoint", "independent"])
def test_samples_relate_as_asked(draw):
    fit = Recorder()
    hs.initialize(net(), DATA, hs.SmartInit(fractions=(0.2, 0.5), draw=draw, fit=fit))
    small, large = (set(indices) for indices, _ in fit.calls)
    shared = len(small & large)
    assert {"nested": shared == 40, "disjoint": shared == 0, "independent": 0 < shared < 40}[draw]


def test_repeats_draw_other_samples():
    fit = Recorder()
    hs.initialize(net(), DATA, hs.SmartInit.repeated(fit=fit))
    assert len(fit.calls) == 10
    assert len({tuple(sorted(indices)) for indices, _ in fit.calls}) == 10


def test_the_first_stage_by_hand():
    """One epoch of AdamW over the batches of the sample, in a plain loop."""
    method = hs.SmartInit(fractions=(0.2,), epochs=1, batch_size=16, lr=0.01)
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(192, CLASSES)

        def forward(self, x):
            if self.training:
                seen.append(x.clone())
            return self.layer(x.flatten(1))

    torch.manual_seed(3)
    model = Watching()
    twin = copy.deepcopy(model.layer)
    hs.initialize(model, DATA, method)
    optimizer = torch.optim.AdamW(twin.parameters(), 0.01, weight_decay=0.01)
    assert [len(x) for x in seen] == [14, 13, 13]
    for x in seen:
        where = [(image == X).flatten(1).all(1).nonzero().item() for image in x]
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x.flatten(1)), Y[where]).backward()
        optimizer.step()
    assert torch.allclose(model.layer.weight, twin.weight, atol=1e-7)


def test_zero_epochs_change_nothing():
    model = net()
    before = state(model)
    report = hs.initialize(model, DATA, quick(epochs=0))
    assert same(state(model), before)
    assert report.changed == []
    assert report.others == []
    assert "nothing was trained" in " ".join(report.findings)


def test_what_changed_is_in_the_report():
    model = net()
    before = state(model)
    report = hs.initialize(model, DATA, quick())
    after = state(model)
    told = {name for layer in report.changed for name in (f"{layer}.weight", f"{layer}.bias")} | set(report.others)
    assert {name for name in before if not torch.equal(before[name], after[name])} == told
    assert {"1.running_mean", "1.weight", "4.weight"} <= set(report.others)


def test_nothing_of_the_training_is_left():
    model = net().eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    gradients = [p.grad for p in model.parameters()]
    ids = [id(p) for p in model.parameters()]
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    hs.initialize(model, DATA, quick())
    assert torch.equal(torch.rand(3), expected)
    assert [id(p) for p in model.parameters()] == ids
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(bool((g == 1).all()) for g in gradients)
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize("source", ["sample", "all"])
def test_the_seed_decides(source):
    first, again, other = net(), net(), net()
    hs.initialize(first, DATA, quick(source=source), seed=5)
    torch.manual_seed(77)
    hs.initialize(again, DATA, quick(source=source), seed=5)
    hs.initialize(other, DATA, quick(source=source), seed=6)
    assert same(state(first), state(again))
    assert not same(state(first), state(other))


def test_restarts_go_over_all_of_the_data():
    seen = set()

    class Watching(Classify):
        def __call__(self, model, parts, epochs, **options):
            assert [len(part) for part in parts] == [len(parts[0])] * epochs
            for part in parts:
                seen.update(part.indices)
            sizes.append((len(parts[0]), epochs))
            return super().__call__(model, parts, epochs, **options)

    sizes = []
    hs.initialize(net(), DATA, hs.SmartInit.restarts(fractions=(0.1, 0.5), epochs=3, fit=Watching()))
    assert sizes == [(20, 3), (100, 3)]
    assert len(seen) == N  # 3 x 100 of 200 go round


def test_excluded_layers_stay():
    model = net()
    before = state(model)
    report = hs.initialize(model, DATA, quick(), exclude="0")
    assert torch.equal(model[0].weight, before["0.weight"])
    assert model[0].weight.requires_grad
    assert report.changed == ["3", "8"]


class Tied(nn.Module):
    """Two layers of one weight, and one that is used without being called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, CLASSES)
        self.b.weight = self.a.weight

    def forward(self, x):
        x = self.b(self.a(x.flatten(1)).relu()).relu()
        return nn.functional.linear(x, self.c.weight)


def test_what_is_tied_or_used_without_being_called_trains():
    model = Tied()
    before = state(model)
    report = hs.initialize(model, DATA, quick())
    after = state(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"a.weight", "a.bias", "b.weight", "b.bias", "c.weight"}
    assert set(report.changed) == {"a", "c"}
    assert report.others == ["b.bias"]
    kept = Tied()
    report = hs.initialize(kept, DATA, quick(), exclude=["a", "b"])
    assert torch.equal(kept.a.weight, before["a.weight"])
    assert report.changed == ["c"]


@pytest.mark.parametrize("kind", ["keep", "reset", "reestimate"])
def test_batch_norm_statistics(kind):
    model, kept = net(), net()
    hs.initialize(kept, DATA, quick())
    hs.initialize(model, DATA, quick(batch_norm=kind))
    assert torch.equal(model[0].weight, kept[0].weight)
    moved = (model[1].running_mean - kept[1].running_mean).abs().max()
    if kind == "keep":
        assert moved == 0
    elif kind == "reset":
        assert torch.equal(model[1].running_mean, torch.zeros(6))
        assert model[1].num_batches_tracked == 0
    else:
        stage = quick().stages(N, 0)[-1]
        x = model[0](X[stage.indices])
        assert torch.allclose(model[1].running_mean, x.mean((0, 2, 3)), atol=1e-3)
        assert model[1].momentum == 0.1
        assert moved > 1e-3


def test_shrink_and_perturb():
    plain, perturbed = net(), net()
    hs.initialize(plain, DATA, quick())
    hs.initialize(perturbed, DATA, quick(shrink=0.6, noise=0.01))
    difference = (perturbed[8].weight - 0.6 * plain[8].weight).detach()
    assert difference.std() == pytest.approx(0.01, rel=0.15)
    assert abs(float(difference.mean())) < 0.002
    assert torch.equal(plain[1].weight, perturbed[1].weight)
    shrunk = net()
    hs.initialize(shrunk, DATA, quick(shrink=0.5))
    assert torch.allclose(shrunk[8].bias, 0.5 * plain[8].bias)


class Breaking:
    """Fails in its second stage."""

    def __init__(self, error):
        self.error, self.stage = error, 0

    def __call__(self, model, dataset, epochs):
        self.stage += 1
        with torch.no_grad():
            model[0].weight.add_(1)
            model[1].running_mean.add_(1)
        if self.stage == 2:
            if self.error is None:
                model[0].weight.data[0, 0, 0, 0] = math.nan
            else:
                raise self.error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "after stage 2 of 2"),
        (ValueError("my own"), "stage 2 of 2 .* failed.*ValueError: my own"),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_failing_stage_is_named_and_undone(error, words):
    model = net()
    before = state(model)
    with pytest.raises(KeyboardInterrupt if words is None else HeadstartError, match=words):
        hs.initialize(model, DATA, quick(fit=Breaking(error)))
    assert same(state(model), before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_diverging_stage_says_so():
    model = net()
    before = state(model)
    with pytest.raises(HeadstartError, match=r"stage 1 of 2 .* not finite"):
        hs.initialize(model, DATA, quick(lr=1e30))
    assert same(state(model), before)


class Drawing(Dataset):
    """Images that are changed by all three global generators."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        shift = float(torch.rand(())) + random.random() + np.random.rand()  # noqa: NPY002 - the global state
        return X[i] + shift, int(Y[i])


def test_resumed_is_bitwise_as_in_one_go(tmp_path, monkeypatch):
    path = str(tmp_path / "stages.safetensors")
    view, model = net(), net()
    before = state(model)
    hs.initialize(view, Drawing(), quick())
    train, calls = Classify.__call__, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Classify, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hs.initialize(model, Drawing(), quick(checkpoint=path))
    assert same(state(model), before)
    assert load_file(path).keys() == before.keys()
    report = hs.initialize(model, Drawing(), quick(checkpoint=path))
    assert "resumed after stage 1 of 2" in " ".join(report.findings)
    assert same(state(model), state(view))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_outlives_what_fails_after_the_stages(tmp_path):
    path = tmp_path / "stages.safetensors"
    with pytest.raises(HeadstartError):
        hs.initialize(net(), DATA, [quick(checkpoint=str(path)), hs.Balance(loss_fn=lambda outputs, batch: 1 / 0)])
    assert path.exists()
    hs.initialize(net(), DATA, quick(checkpoint=str(path)))
    assert not path.exists()


def test_a_checkpoint_of_another_call_is_refused(tmp_path):
    path = tmp_path / "stages.safetensors"
    with pytest.raises(HeadstartError):
        hs.initialize(net(), DATA, quick(checkpoint=str(path), fit=Breaking(ValueError())))
    assert path.exists()
    method = quick(checkpoint=str(path))
    others = [
        (net(), DATA, {}, 1), (net(), DATA, {"epochs": 3}, 0), (net(1), DATA, {}, 0), (net(), (-X, Y), {}, 0),
        (net(), DATA, {"fit": Classify(lr=0.5)}, 0), (net(), DATA, {"fit": lambda model, data, epochs: None}, 0),
    ]  # fmt: skip
    for model, data, options, seed in others:
        with pytest.raises(HeadstartError, match="another call"):
            hs.initialize(model, data, replace(method, **options), seed=seed)
    path.write_bytes(b"no tensors")
    with pytest.raises(HeadstartError, match="not a readable checkpoint"):
        hs.initialize(net(), DATA, quick(checkpoint=str(path)))
    with pytest.raises(HeadstartError, match="cannot be written"):
        hs.initialize(net(), DATA, quick(checkpoint="stages.pt"))


class Augmented(Dataset):
    """Images shifted by a draw of the global generator, and a class under a name."""

    def __init__(self):
        self.targets, self.shifts = Y.tolist(), []

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.shifts.append(int(torch.randint(0, 3, ())))
        return {"pixels": X[i].roll(self.shifts[-1], 1), "labels": self.targets[i]}


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = net()

    def forward(self, pixels):
        return {"logits": self.net(pixels)}


@pytest.mark.parametrize("frozen", [False, True])
def test_augmentation_is_drawn_anew_unless_frozen(frozen):
    data = Augmented()
    report = hs.initialize(ByName(), data, hs.SmartInit(fractions=(0.2,), epochs=4, frozen_batches=frozen), samples=8)
    assert len(data.shifts) == 8 + 40 * (1 if frozen else 4)
    assert report.changed


def test_frozen_batches_are_the_same_in_every_epoch():
    seen = []
    model = net()
    model[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()) if m.training else None)
    hs.initialize(model, DATA, hs.SmartInit.paper(fractions=(0.2,), epochs=3, batch_size=16))
    batches = seen[-9:]
    assert all(torch.equal(batches[i], batches[i + 3]) for i in range(6))


@pytest.mark.parametrize(
    "data", [DataLoader(DATA, 32, shuffle=True), (X, Y), (X.numpy(), Y.numpy()), {"input": X, "label": Y}, [(X, Y)]]
)
def test_forms_of_data(data):
    model, expected = net(), net()
    hs.initialize(expected, DATA, quick())
    hs.initialize(model, data, quick())
    assert same(state(model), state(expected))


class Flipped(TensorDataset):
    """Gives other samples than its tensors."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x.flip(0), y


def collate(rows):
    return torch.stack([x for x, _ in rows]).flip(1), torch.tensor([int(y) for _, y in rows])


@pytest.mark.parametrize("data", [Flipped(X, Y), DataLoader(DATA, 16, collate_fn=collate), [X.flip(1), Y]])
def test_samples_are_those_that_the_user_gives(data):
    model, expected = net(), net()
    model[6].p = expected[6].p = 0.0  # a loader draws from the stream that dropout draws from
    hs.initialize(expected, (X.flip(1), Y), quick())
    hs.initialize(model, data, quick())
    assert same(state(model), state(expected))


def test_a_lone_batch_is_told():
    report = hs.initialize(net(), iter([(X[:64], Y[:64]), (X[64:], Y[64:])]), quick())
    assert "the 64 samples taken count as all data" in " ".join(report.findings)
    assert "no data set" not in " ".join(hs.initialize(net(), (X, Y), quick()).findings)


def test_a_sampler_that_prefers_some_samples_is_refused():
    sampler = torch.utils.data.WeightedRandomSampler(torch.ones(N), N)
    with pytest.raises(HeadstartError, match="WeightedRandomSampler"):
        hs.initialize(net(), DataLoader(DATA, 16, sampler=sampler), quick())


def test_get_inputs_reaches_a_training_of_ones_own_options():
    data = TensorDataset(X.flatten(1), Y)
    unpack = {"get_inputs": lambda batch: batch[0].unflatten(1, (3, 8, 8))}
    assert hs.initialize(net(), data, quick(fit=Classify(batch_size=8)), **unpack).changed


def test_flags_that_a_training_sets_come_back():
    def freezing(model, dataset, epochs):
        model.requires_grad_(False)

    model = net()
    hs.initialize(model, DATA, quick(fit=freezing))
    assert all(p.requires_grad for p in model.parameters())


def test_a_frozen_model_cannot_train():
    with pytest.raises(HeadstartError, match="No parameter of the model trains"):
        hs.initialize(net().requires_grad_(False), DATA, quick())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (X, "no classes to train on"),
        ({"input": X}, "no classes to train on"),
        ((X[:2], Y[:1]), "is not a tensor of logits"),
        (TensorDataset(X), "no classes to train on"),
        ((X, torch.rand(N)), "no classes to train on"),
        ((X, Y.unsqueeze(1).expand(-1, 5).clone()), "is not a tensor of logits"),
    ],
)
def test_data_that_cannot_train(data, words):
    model = net()
    before = state(model)
    with pytest.raises(HeadstartError, match=words):
        hs.initialize(model, data, quick())
    assert same(state(model), before)


def test_a_sample_that_misses_classes_is_told():
    report = hs.initialize(net(), (X, torch.arange(N) // 50), quick(fractions=(0.01, 0.5)))
    assert "misses" in " ".join(report.findings)
    assert "stage 2 of 2 (100 samples, 2 epochs) misses" not in " ".join(report.findings)


@pytest.mark.parametrize(
    "options",
    [
        {"fractions": ()}, {"fractions": (0.5, 1.5)}, {"fractions": (0,)}, {"epochs": -1}, {"repeats": 0},
        {"draw": "some"}, {"source": "none"}, {"batch_norm": "x"}, {"shrink": 2}, {"noise": -1}, {"lr": 0},
        {"decay": 0}, {"batch_size": 0}, {"source": "all", "frozen_batches": True},
        {"source": "all", "fit": lambda model, dataset, epochs: None},
    ],
)  # fmt: skip
def test_options_are_checked(options):
    with pytest.raises(HeadstartError):
        hs.SmartInit(**options)


def test_disjoint_samples_must_fit():
    with pytest.raises(HeadstartError, match="more than the 200"):
        hs.initialize(net(), DATA, quick(fractions=(0.6, 0.5), draw="disjoint"))


def test_presets_and_specs():
    assert hs.SmartInit.paper().frozen_batches
    assert hs.WarmStart().fractions == (0.5,)
    assert hs.ShrinkPerturb().shrink == 0.6
    report = hs.initialize(net(), DATA, "smart-init:fractions=(0.1,0.2),epochs=1,batch_size=8")
    assert "40 samples, 1 epochs" in " ".join(report.findings)
    assert hs.initialize(net(), DATA, "warm-start:epochs=1").changed


def test_compute_leaves_the_model_and_apply_gives_the_same():
    model, direct = net(), net()
    before = state(model)
    init = hs.compute(model, DATA, quick())
    assert same(state(model), before)
    hs.apply(model, init)
    hs.initialize(direct, DATA, quick())
    assert same(state(model), state(direct))
