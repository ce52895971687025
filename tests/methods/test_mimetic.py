"""Attention is found in networks written in the common ways; mimetic writes the paper's products into all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import headstart as hs
from headstart.measure.attention import Attention, Rows, find_attention
from headstart.model.inputs import Batch
from headstart.model.transaction import Transaction

NARROW, WIDTH, HEADS = 12, 48, 3


def blocks(start: int = 0, size: int = 4, heads: int = HEADS) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(range(start + h * size, start + (h + 1) * size)) for h in range(heads))


def found(model: nn.Module, *shape: int) -> list[Attention]:
    with Transaction(model):
        seen = find_attention(model, Batch((torch.randn(2, *shape),)))
    assert seen.left == ()
    return list(seen.attentions)


class Timm(nn.Module):
    """One layer for queries, keys and values; fused or by hand, with a norm of queries and keys or none."""

    def __init__(self, fused: bool, normed: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.qkv, self.proj = nn.Linear(NARROW, 3 * NARROW), nn.Linear(NARROW, NARROW)
        self.q_norm, self.k_norm = (nn.LayerNorm(4) if normed else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, 4).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * 0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class Separate(nn.Module):
    """BERT's way: three layers, scores scaled and masked by hand. Llama's with a rotation, and with shared keys."""

    def __init__(self, groups: int = HEADS, rotated: bool = False) -> None:
        super().__init__()
        self.groups, self.rotated = groups, rotated
        self.query, self.key, self.value = (nn.Linear(NARROW, 4 * n) for n in (HEADS, groups, groups))
        self.dense = nn.Linear(NARROW, NARROW, bias=False)

    def rotate(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2])[:, None] * torch.tensor([1.0, 0.1])
        cos, sin = (torch.cat([f(angle), f(angle)], -1) for f in (torch.cos, torch.sin))
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.rotated:
            q, k = self.rotate(q), self.rotate(k)
        if self.groups < HEADS:
            k, v = (t.repeat_interleave(HEADS // self.groups, 1) for t in (k, v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / 2 + torch.zeros(1, 1, x.shape[1], x.shape[1])
        y = torch.matmul(nn.functional.dropout(F.softmax(scores, -1), training=self.training), v)
        return self.dense(y.transpose(1, 2).contiguous().flatten(2))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("normed", [True, False])
def test_timms_way(fused: bool, normed: bool) -> None:
    parts = [Rows("qkv", blocks(i * NARROW)) for i in range(3)]
    assert found(Timm(fused, normed), 5, NARROW) == [Attention(*parts, "proj")]


@pytest.mark.parametrize("rotated", [True, False])
def test_separate_layers_with_and_without_rotation(rotated: bool) -> None:
    parts = [Rows(n, blocks()) for n in ("query", "key", "value")]
    assert found(Separate(rotated=rotated), 5, NARROW) == [Attention(*parts, "dense")]


def test_grouped_queries() -> None:
    shared = [Rows(n, blocks(heads=1)) for n in ("key", "value")]
    assert found(Separate(groups=1, rotated=True), 5, NARROW) == [Attention(Rows("query", blocks()), *shared, "dense")]


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_own(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(NARROW, HEADS, 16, batch_first=True, norm_first=norm_first)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    seen = found(net, 5, NARROW)
    assert seen == [
        Attention(*(Rows(f"layers.{i}.self_attn.{p}", blocks()) for p in "qkv"), f"layers.{i}.self_attn.out_proj")
        for i in range(2)
    ]


def test_what_is_no_attention_is_none() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(NARROW, NARROW), nn.Linear(NARROW, NARROW)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).softmax(-1) * self.b(x)

    assert found(Gated(), 5, NARROW) == []


class Own(nn.Module):
    """torch's attention on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def products(net: Own) -> tuple[list[np.ndarray], np.ndarray]:
    """``W_Q W_Kᵀ`` of each head, and ``W_V W_O``, as they act on a row vector."""
    q, k, v = (w.numpy() for w in net.attention.in_proj_weight.detach().chunk(3))
    size = WIDTH // HEADS
    heads = [q[h * size : (h + 1) * size].T @ k[h * size : (h + 1) * size] for h in range(HEADS)]
    return heads, v.T @ net.attention.out_proj.weight.detach().numpy().T


def test_products_are_near_the_identity_and_noise() -> None:
    torch.manual_seed(0)
    net, x = Own(), torch.randn(8, 5, WIDTH)
    report = hs.initialize(net, x, "mimetic", seed=3)
    assert report.changed == [f"attention.{n}" for n in ("q", "k", "v", "out_proj")]
    heads, vo = products(net)
    for product in heads:
        # The best of rank d/h to alpha Z + beta I: its own singular values are the largest of such a matrix.
        values = np.linalg.svd(product, compute_uv=False)
        assert np.linalg.matrix_rank(product, tol=1e-4) == WIDTH // HEADS
        noise = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
        wanted = np.linalg.svd(0.7 * noise + 0.7 * np.eye(WIDTH), compute_uv=False)[: WIDTH // HEADS]
        assert np.allclose(values[: WIDTH // HEADS], wanted, rtol=0.25)
        assert product.diagonal().mean() > 0.25
    assert abs(vo.diagonal().mean() + 0.4) < 0.05
    rest = vo + 0.4 * np.eye(WIDTH)
    assert abs(rest.std() * np.sqrt(WIDTH) - 0.4) < 0.03
    assert not bool(net.attention.in_proj_bias.detach().any())


def test_with_one_head_the_product_is_the_target_itself() -> None:
    """At full rank nothing is cut off: ``QKᵀ - 0.7 I`` is noise of deviation ``0.7 / sqrt(d)``."""
    net = Own()
    net.attention = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
    hs.initialize(net, torch.randn(8, 5, WIDTH), "mimetic")
    q, k, _ = net.attention.in_proj_weight.detach().chunk(3)
    rest = (q.T @ k - 0.7 * torch.eye(WIDTH)) * WIDTH**0.5 / 0.7
    assert abs(rest.std().item() - 1) < 0.05
    assert abs(rest.diagonal().mean().item()) < 0.5


def test_the_control_has_the_same_spectra_and_norms_and_no_identity() -> None:
    x, nets = torch.randn(8, 5, WIDTH), [Own(), Own()]
    for net, method in zip(nets, ("mimetic", "mimetic:control"), strict=True):
        hs.initialize(net, x, method, seed=1)
    size = WIDTH // HEADS
    pairs = [[*n.attention.in_proj_weight.detach().split(size), n.attention.out_proj.weight.detach()] for n in nets]
    for own, control in zip(*pairs, strict=True):
        assert torch.allclose(torch.linalg.svdvals(own), torch.linalg.svdvals(control), rtol=1e-3, atol=1e-5)
        assert not torch.allclose(own, control)
    heads, vo = products(nets[1])
    assert all(abs(p.diagonal().mean()) < 0.06 for p in heads)
    assert abs(vo.diagonal().mean()) < 0.06


@pytest.mark.parametrize(
    "make", [lambda: Timm(True), lambda: Timm(False), lambda: Separate()], ids=["fused", "hand", "bert"]
)
def test_all_ways_of_writing_attention_are_served(make) -> None:
    net = make()
    report = hs.initialize(net, torch.randn(8, 5, 12), "mimetic")
    weights = (
        net.qkv.weight.detach() if isinstance(net, Timm) else torch.cat([net.query.weight, net.key.weight]).detach()
    )
    q, k = weights[:24].chunk(2)
    assert len(report.changed) == (2 if isinstance(net, Timm) else 4)
    for a, b in zip(q.chunk(3), k.chunk(3), strict=True):
        assert (a.T @ b).diagonal().mean().item() > 0.1


def test_what_is_not_served_is_left_and_named() -> None:
    net, x = Separate(groups=1, rotated=True), torch.randn(8, 5, 12)
    report = hs.initialize(net, x, "mimetic")
    assert report.changed == []
    assert any("share 1 heads of keys" in f for f in report.findings)
    report = hs.initialize(Timm(True), x, "mimetic", exclude="proj")
    assert any("'proj' was not selected" in f for f in report.findings)
    report = hs.initialize(nn.Linear(12, 3), x, "mimetic")
    assert any("no attention was written" in f for f in report.findings)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(hs.HeadstartError, match="is not a pair of factors"):
        hs.Mimetic(qk=(0.0, 0.0))
