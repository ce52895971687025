"""Residual branches against what each architecture is known to have, and the forms against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs
from headstart.measure.branches import Branch, find_branches
from headstart.model.inputs import Batch


class Basic(nn.Module):
    """ResNet's block; ``norm`` may be left out."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=not norm)
        self.bn1, self.bn2 = (nn.BatchNorm2d(outputs) if norm else nn.Identity() for _ in range(2))
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.short(x)
        return F.relu_(y)


def resnet(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    stages = [Basic(8, 8, 1, norm), Basic(8, 12, 2, norm), Basic(12, 12, 1, norm)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
    )


class Attention(nn.Module):
    """Plain self-attention of two heads, and the two layers behind it, with the norm before or behind."""

    def __init__(self, width: int = 8, pre: bool = True, parallel: bool = False) -> None:
        super().__init__()
        self.pre, self.parallel = pre, parallel
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def mlp(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def forward(self, x: Tensor) -> Tensor:
        if self.parallel:
            y = self.norm1(x)
            return self.attend(y) + self.mlp(y) + x
        if self.pre:
            x = x + self.attend(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


class ConvNeXt(nn.Module):
    """ConvNeXt's block, with its layer scale."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 12), nn.Linear(12, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc2(F.gelu(self.fc1(self.norm(self.dw(x).permute(0, 2, 3, 1)))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Concatenations outside, a sum around everything, and residual units inside."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner, self.up = Basic(6, 12, 2), Basic(12, 12), nn.ConvTranspose2d(12, 6, 2, 2)
        self.join = nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.inner(self.down(x)))
        return x + self.join(torch.cat([x, y], 1))


def branches(model: nn.Module, *shape: int) -> list[Branch]:
    return find_branches(model.eval(), Batch((torch.randn(2, *shape),)))


def ends(found: list[Branch]) -> list[tuple[str, str, int, str]]:
    return [(b.first, b.last, b.depth, b.gain) for b in found]


def test_branches_of_resnets_with_and_without_norms() -> None:
    wanted = [(f"{i}.conv1", f"{i}.conv2", 2) for i in (2, 3, 4)]
    with_norms, without = branches(resnet(), 3, 12, 12), branches(resnet(norm=False), 3, 12, 12)
    assert ends(with_norms) == [(*w, f"{i}.bn2.weight") for i, w in enumerate(wanted, 2)]
    assert all(b.norms and not b.problem for b in with_norms)
    assert ends(without) == [(*w, "") for w in wanted]
    assert not any(b.norms for b in without)


@pytest.mark.parametrize("form", ["pre", "post", "parallel"])
def test_branches_of_transformers(form: str) -> None:
    net = nn.Sequential(*(Attention(pre=form != "post", parallel=form == "parallel") for _ in range(3)))
    found = branches(net, 5, 8)
    wanted = [(f"{i}.{a}", f"{i}.{b}", 2, "") for i in range(3) for a, b in (("qkv", "proj"), ("fc1", "fc2"))]
    assert ends(found) == wanted
    assert {b.norms for b in found} == {form != "post"}


@pytest.mark.parametrize("norm_first", [True, False])
def test_branches_of_torchs_transformer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=norm_first)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        found = branches(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 5, 8)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    attention = ("self_attn.q", "self_attn.out_proj"), {"self_attn.q", "self_attn.k", "self_attn.v"}
    for i in range(2):
        for branch, (wanted, before) in zip(
            found[2 * i :], (attention, (("linear1", "linear2"), {"linear1"})), strict=False
        ):
            assert (branch.first, branch.last) == tuple(f"layers.{i}.{n}" for n in wanted)
            assert {*branch.layers[:-1]} == {f"layers.{i}.{n}" for n in before}
            assert branch.depth == 2


def test_branches_of_linear_layers_with_inputs_first() -> None:
    class Conv1D(nn.Module):
        """As Hugging Face's."""

        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.one, self.two = nn.LayerNorm(8), Conv1D(8, 16), Conv1D(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(F.gelu(self.one(self.norm(x))))

    net, x = nn.Sequential(Block(), Block()), torch.randn(16, 5, 8)
    assert ends(branches(net, 5, 8)) == [(f"{i}.one", f"{i}.two", 2, "") for i in range(2)]
    hs.initialize(net, x, "residual")
    assert torch.equal(net.eval()(x), x)


def test_branches_of_convnexts_and_unets() -> None:
    assert ends(branches(nn.Sequential(ConvNeXt(), ConvNeXt()), 6, 8, 8)) == [
        (f"{i}.dw", f"{i}.fc2", 3, f"{i}.gamma") for i in range(2)
    ]
    assert [b.first for b in branches(UNet(), 6, 8, 8)] == ["down.conv1", "inner.conv1"]


def test_what_is_no_branch() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))
            self.place = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.place  # a parameter
            return self.c(self.a(x) + self.b(x))  # two alike

    assert branches(Towers(), 5, 8) == []
    report = hs.initialize(Towers(), torch.randn(9, 5, 8), "residual")
    assert any("no residual branch was found" in f for f in report.findings)
    assert report.changed == []


def test_zero_makes_blocks_the_identity_and_they_learn() -> None:
    for net, shape, written in (
        (nn.Sequential(*(Attention() for _ in range(3))), (5, 8), None),
        (nn.Sequential(ConvNeXt(), ConvNeXt()), (6, 8, 8), ["0.gamma", "1.gamma"]),
    ):
        x = torch.randn(16, *shape)
        report = hs.initialize(net, x, "residual:form=zero")
        assert torch.equal(net.eval()(x), x)
        if written is None:
            assert report.changed == [f"{i}.{n}" for i in range(3) for n in ("proj", "fc2")]
            assert report.row("0.fc2").weight_std[1] == 0
        else:
            assert report.other_tensors == written
            assert not any("No layer was written" in f for f in report.findings)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (net(x) - 1).square().mean().backward()
            optimizer.step()
        assert all(bool(p.grad.any()) for n, p in net.named_parameters() if "qkv.bias" not in n)


def test_zero_takes_the_gain_of_the_last_norm() -> None:
    net = resnet()
    nn.init.normal_(net[2].bn2.bias)
    weights = {n: p.detach().clone() for n, p in net.named_parameters()}
    report = hs.initialize(net, torch.randn(16, 3, 12, 12), "residual")
    zeroed = [f"{i}.bn2.weight" for i in (2, 3, 4)]
    assert sorted(report.other_tensors) == sorted([*zeroed, "2.bn2.bias"])
    for name, p in net.named_parameters():
        assert bool(p.any()) != (name in zeroed or "bn2.bias" in name) or not bool(weights[name].any())
    assert report.changed == []


def test_a_branch_that_ends_in_a_relu_is_left_but_can_be_scaled() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + F.relu(self.two(F.relu(self.one(x))))

    net, x = nn.Sequential(Block(), Block(), Block(), Block()), torch.randn(16, 8)
    report = hs.initialize(net, x, "residual")
    assert report.changed == []
    assert any("4 branches, which end in" in f and "'relu' lies between" in f for f in report.findings)
    before = net[3].two.weight.detach().clone()
    assert hs.initialize(net, x, "residual:depth").changed == [f"{i}.two" for i in range(4)]
    assert torch.equal(net[3].two.weight, before / 2)


def test_fixups_factors() -> None:
    net = resnet(norm=False)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    hs.initialize(net, torch.randn(16, 3, 12, 12), "residual:form=fixup")
    factor = 3 ** (-1 / (2 * 2 - 2))  # three branches of two layers
    for i in (2, 3, 4):
        assert torch.allclose(net[i].conv1.weight, before[f"{i}.conv1.weight"] * factor)
        assert not bool(net[i].conv2.weight.any())
        assert not bool(net[i].conv2.bias.any())
    assert torch.equal(net[3].short[0].weight, before["3.short.0.weight"])
    assert torch.equal(net[0].weight, before["0.weight"])
    assert not bool(net[7].weight.any())


def test_depth_is_gpt2s_factor() -> None:
    net = nn.Sequential(*(Attention() for _ in range(6)))
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    report = hs.initialize(net, torch.randn(16, 5, 8), "residual:depth")
    for name, p in net.named_parameters():
        end = name.split(".")[1] in ("proj", "fc2")
        assert torch.allclose(p, before[name] / math.sqrt(2 * 6) if end else before[name])
    assert report.findings[0] == (
        "residual: 12 residual branches: '0.qkv' to '0.proj', '0.fc1' to '0.fc2', '1.qkv' to '1.proj' …."
    )


def test_excluded_and_frozen_ends_are_left() -> None:
    net = nn.Sequential(*(Attention() for _ in range(2)))
    net[1].proj.weight.requires_grad_(False)
    report = hs.initialize(net, torch.randn(16, 5, 8), "residual", exclude="0")
    assert report.changed == ["1.fc2"]
    assert any("3 branches, which end in" in f and "not selected" in f for f in report.findings)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(hs.HeadstartError, match="form='skip' is not known"):
        hs.Residual(form="skip")
