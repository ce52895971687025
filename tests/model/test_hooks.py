"""Callbacks around modules, and forward passes that end early, whatever the model's own code catches."""

import dataclasses
import gc
import weakref

import pytest
import torch
from torch import nn

import headstart as hs
from headstart.model.forward import run
from headstart.model.hooks import EndOfPass, hooked
from headstart.model.inputs import Batch

X = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize(
    ("place", "order"),
    [
        ("inside", ["user before", "before", "after", "user after"]),
        ("first", ["before", "user before", "after", "user after"]),
        ("last", ["user before", "before", "user after", "after"]),
    ],
)
def test_callbacks_come_where_they_were_told_to_among_the_users_hooks(place, order):
    layer, seen = nn.Linear(2, 2), []
    layer.register_forward_pre_hook(lambda *_: seen.append("user before"))
    layer.register_forward_hook(lambda *_: seen.append("user after"))
    with hooked([("a", layer)], lambda *_: seen.append("before"), lambda *_: seen.append("after"), place=place):
        layer(torch.zeros(1, 2))
    assert seen == order


def test_callbacks_are_gone_even_if_they_cannot_all_be_registered():
    layer = nn.Linear(2, 2)
    with pytest.raises(AttributeError), hooked([("a", layer), ("b", None)], print, print):
        pass
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("no_grad", [True, False])
def test_gradients_are_off_inside_and_as_they_were_outside(no_grad):
    layer, seen = nn.Linear(2, 2), []
    with hooked([("a", layer)], after=lambda *_: seen.append(torch.is_grad_enabled()), no_grad=no_grad):
        assert layer(torch.zeros(1, 2)).requires_grad
    assert seen == [not no_grad]


# What a forward may do with an exception that is not its own ------------------------------------------------------


def gives_zeros(net, x):
    try:
        return net(x)
    except BaseException:
        return x.new_zeros(len(x), 5)


def raises_its_own(net, x):
    try:
        return net(x)
    except BaseException as error:
        raise RuntimeError("something went wrong") from error


def tries_again(net, x):
    try:
        return net(x)
    except BaseException:
        return net(x)


def fails_later(net, x):
    try:
        y = net(x)
    except BaseException:
        y = None
    return y + 1


class Catching(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.net, self.how = conv_net(), forward

    def forward(self, x):
        return self.how(self.net, x)


CATCHES = [gives_zeros, raises_its_own, tries_again, fails_later]


def calls(net, x):
    return net(x)


def weights_after(forward, call):
    model = Catching(forward)
    call(model)
    return list(model.parameters())


@pytest.mark.parametrize("catches", CATCHES)
@pytest.mark.parametrize(
    "call",
    [
        lambda model: hs.initialize(model, X, "within-layer", seed=0),
        lambda model: hs.initialize(model, X, "within-layer", seed=0, batch_size=20),
        lambda model: hs.adapt_conv(model, 3, data=X.expand(-1, 3, -1, -1) * 2, reference=X, layer="net.0"),
    ],
    ids=["whole", "streamed", "adapted"],
)
def test_a_pass_ends_although_the_models_code_catches_everything(call, catches):
    for got, wanted in zip(weights_after(catches, call), weights_after(calls, call), strict=True):
        assert torch.equal(got, wanted)


@dataclasses.dataclass(frozen=True)
class Breaks(hs.LSUV):
    def after(self, visit):
        super().after(visit)
        if visit.layer.name == "net.2":
            raise hs.HeadstartError("This method breaks.")


@pytest.mark.parametrize("catches", CATCHES)
@pytest.mark.parametrize("batch_size", [None, 20])
def test_an_error_of_a_method_arrives_although_the_models_code_catches_everything(catches, batch_size):
    model = Catching(catches)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(hs.HeadstartError, match=r"^This method breaks\."):
        hs.initialize(model, X, Breaks(), batch_size=batch_size)
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))


def test_the_user_may_interrupt_a_pass_that_was_ended():
    def interrupted(net, x):
        try:
            return net(x)
        finally:
            raise KeyboardInterrupt

    def end(*_):
        raise EndOfPass

    model = Catching(interrupted)
    with pytest.raises(KeyboardInterrupt), hooked([("net", model.net)], end) as hooks:
        run(model, Batch((X,)), until=hooks)


def test_an_ended_pass_returns_nothing_and_leaves_no_activations_behind():
    seen = []

    def end(name, args, kwargs, output):
        seen.append(weakref.ref(output))
        raise EndOfPass

    model = conv_net()
    gc.disable()
    try:
        with hooked([("2", model[2])], after=end) as hooks:
            assert run(model, Batch((X,)), until=hooks) is None
            assert hooks.ended
            assert seen[0]() is None
    finally:
        gc.enable()
