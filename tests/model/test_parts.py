"""Parts of modules: which there are, that they are read and written where they lie, and what is drawn into them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import headstart as hs
from headstart.conformance.parts import Text
from headstart.model import weights
from headstart.model.parts import parts_of


class Conv1D(nn.Module):
    """Hugging Face's linear layer, which GPT-2 is made of: the weight's inputs come first."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])


class Block(nn.Module):
    """A GPT-2 block, of either kind of layer."""

    def __init__(self, linear: bool, width: int = 12, heads: int = 3) -> None:
        super().__init__()

        def make(inputs: int, outputs: int) -> nn.Module:
            return nn.Linear(inputs, outputs) if linear else Conv1D(outputs, inputs)

        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_proj = make(width, 3 * width), make(width, width)
        self.c_fc, self.c_proj = make(width, 4 * width), make(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.c_attn(self.ln_1(x)).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.attn_proj(y)
        return x + self.c_proj(nn.functional.gelu(self.c_fc(self.ln_2(x))))


NAMES = ("c_attn", "attn_proj", "c_fc", "c_proj")


@pytest.mark.parametrize("method", ["orthogonal", "kaiming", "lsuv", "within-layer", "xavier:gain=0.5"])
def test_a_gpt2_block_is_initialized_as_the_same_block_of_linear_layers(method: str) -> None:
    torch.manual_seed(0)
    one, other, x = Block(linear=True), Block(linear=False), torch.randn(16, 7, 12)
    with torch.no_grad():
        for name in NAMES:
            other.get_parameter(f"{name}.weight").copy_(one.get_parameter(f"{name}.weight").T)
            other.get_parameter(f"{name}.bias").copy_(one.get_parameter(f"{name}.bias"))
    reports = [hs.initialize(net, x, method, seed=2) for net in (one, other)]
    assert reports[0].changed == reports[1].changed == list(NAMES)
    assert [r.shape for r in reports[0].rows] == [r.shape for r in reports[1].rows]
    for name in NAMES:
        assert torch.allclose(one.get_parameter(f"{name}.weight").T, other.get_parameter(f"{name}.weight"), atol=1e-5)
        assert torch.allclose(one.get_parameter(f"{name}.bias"), other.get_parameter(f"{name}.bias"), atol=1e-5)


def test_every_part_is_read_and_written_where_it_lies() -> None:
    net = Text()
    parts = parts_of(net)
    assert len(parts) == 1 + 4 + 2 * 2 * 2 * 4 + 1
    for number, part in enumerate(parts):
        weights.write(part, torch.full(part.shape, float(number)))
        assert torch.equal(weights.read(part), torch.full(part.shape, float(number)))
    whole = {n: p for n, p in net.named_parameters() if p.dim() > 1 and not n.startswith("head")}
    assert sorted(float(v) for p in whole.values() for v in p.detach().unique()) == list(range(len(parts)))
    packed = net.attention.in_proj_weight.detach()
    assert [packed[i * 8, 0].item() for i in range(3)] == [1, 2, 3]


def semi_orthogonal(weight: Tensor) -> bool:
    rows, columns = weight.shape
    product = weight @ weight.T if rows <= columns else weight.T @ weight
    return torch.allclose(product, torch.eye(min(rows, columns)), atol=1e-5)


def test_orthogonal_is_so_in_every_projection_and_gate() -> None:
    net = Text()
    with torch.no_grad():
        hs.initialize(net, method="orthogonal", seed=1)
        assert all(semi_orthogonal(w) for w in net.attention.in_proj_weight.chunk(3))
        assert semi_orthogonal(net.attention.out_proj.weight)
        for name, p in net.memory.named_parameters():
            blocks = p.chunk(4)
            assert all(semi_orthogonal(b) if "weight" in name else not b.any() for b in blocks)
            assert "weight" not in name or not torch.equal(blocks[0], blocks[1])
        assert not bool(net.embedding.weight[0].any())  # padding
        assert not bool(net.attention.in_proj_bias.any())


def test_default_is_each_modules_own_start() -> None:
    """Bounds and deviations against torch's own constructors, at sizes where they can be told."""
    torch.manual_seed(0)
    made = {
        "lstm": lambda: nn.LSTM(40, 64),
        "gru": lambda: nn.GRUCell(40, 64),
        "attention": lambda: nn.MultiheadAttention(64, 4),
        "separate": lambda: nn.MultiheadAttention(64, 4, kdim=32, vdim=48),
        "embedding": lambda: nn.Embedding(100, 50, padding_idx=3),
        "bilinear": lambda: nn.Bilinear(30, 20, 25),
        "conv1d": lambda: Conv1D(60, 50),
    }
    for name, make in made.items():
        own, ours = make(), make()
        hs.initialize(ours, method="default", seed=4)
        for (key, a), b in zip(own.named_parameters(), ours.parameters(), strict=True):
            a, b = a.detach(), b.detach()
            assert not torch.equal(a, b) or not bool(a.any()), (name, key)
            assert math.isclose(float(a.std()), float(b.std()), rel_tol=0.25, abs_tol=1e-9), (name, key)
            if name not in ("embedding", "conv1d"):
                assert math.isclose(float(a.abs().max()), float(b.abs().max()), rel_tol=0.1, abs_tol=1e-9), (name, key)


def test_lsuv_normalizes_each_projection() -> None:
    net, x = Text(), torch.randint(0, 11, (64, 9))
    report = hs.initialize(net, x, "lsuv")
    assert [n for n in report.changed if "attention" in n] == [f"attention.{n}" for n in ("q", "k", "v", "out_proj")]
    with torch.no_grad():
        vectors = net.embedding(x)
        for w in net.attention.in_proj_weight.chunk(3):
            assert abs(float((vectors @ w.T).std(correction=0)) - 1) < 1e-4
        made = net.attention(vectors, vectors, vectors, need_weights=False)[0]
        assert abs(float(made.std(correction=0)) - 1) < 1e-4
    parts = hs.initialize(Text(), x, "lsuv", batch_size=16)
    assert parts.changed == report.changed
    assert "lies inside the LSTM" in " ".join(report.row("memory.weight_hh_l0.f").notes)


def test_the_report_lists_parts_in_the_order_of_execution_and_includes_select_them() -> None:
    net, x = Text(), torch.randint(0, 11, (16, 5))
    names = [r.name for r in hs.initialize(net, x, "orthogonal").rows]
    places = [
        names.index(n) for n in ("embedding", "attention.q", "attention.out_proj", "memory.weight_ih_l0.i", "head")
    ]
    assert places == sorted(places)
    before = net.memory.weight_hh_l0.detach().clone()
    assert hs.initialize(net, x, "orthogonal", seed=1, include="memory.weight_hh_l0.f").changed == [
        "memory.weight_hh_l0.f"
    ]
    changed = (net.memory.weight_hh_l0 != before).any(1)
    assert changed.tolist() == [6 <= i < 12 for i in range(24)]
    assert all(n.startswith("attention") for n in hs.initialize(net, x, "lsuv", include="attention").changed)


def test_a_tied_head_follows_its_embedding() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.embedding = nn.Linear(8, 11, bias=False), nn.Embedding(11, 8)
            self.head.weight = self.embedding.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embedding(x))

    net = Tied()
    report = hs.initialize(net, torch.randint(0, 11, (16, 5)), "orthogonal")
    assert report.changed == ["embedding"]
    assert "tied to 'embedding'" in " ".join(report.row("head").notes)
    assert torch.equal(net.head.weight, net.embedding.weight)
    assert semi_orthogonal(net.head.weight.detach())


def test_compute_and_apply_serve_parts() -> None:
    one, other = Text(), Text()
    other.load_state_dict(one.state_dict())
    init = hs.compute(one, method="orthogonal", seed=5)
    hs.initialize(other, method="orthogonal", seed=5)
    hs.apply(one, init)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
