"""Checks: layers that are parts of modules, such as attention's projections, gates and embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headstart.api import MethodLike
from headstart.conformance.models import tokens
from headstart.conformance.runs import attempt, build, contract, needs_convolution, run
from headstart.conformance.state import require, require_close, require_equal, weights_of
from headstart.engine import registry


class Text(nn.Module):
    """Tokens through an embedding, attention (packed or not), a recurrent layer and a bilinear one."""

    def __init__(self, packed: bool = True, recurrent: Any = nn.LSTM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        separate = {} if packed else {"kdim": 8, "vdim": 8}
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **separate)
        if not packed:  # equal sizes would be packed
            self.attention._qkv_same_embed_dim = False
            self.attention.register_parameter("in_proj_weight", None)
            for name in "qkv":
                setattr(self.attention, f"{name}_proj_weight", nn.Parameter(torch.empty(8, 8)))
            with torch.no_grad():
                for name in "qkv":
                    nn.init.xavier_uniform_(self.attention.get_parameter(f"{name}_proj_weight"))
        self.memory = recurrent(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.pair = nn.Bilinear(12, 8, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Any:
        """Scores."""
        x = self.embedding(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(F.relu(self.pair(self.memory(x)[0], x)))


def _run(method: MethodLike, model: nn.Module, data: Any) -> None:
    """Run; a method for convolutions, or for whole layers, may refuse."""
    if needs_convolution(method) or not all(m.writes_parts for m in registry.resolve(method)):
        attempt(method, model, data)
    else:
        run(method, model, data)


@contract
def parts_of_modules(method: MethodLike) -> None:
    """Embeddings, attention and recurrent layers: what the report does not name stays, and the rest is finite."""
    for recurrent in (nn.LSTM, nn.GRU, nn.RNN):
        _run(method, build(partial(Text, recurrent=recurrent)), tokens())


@contract
def packed_and_separate_attention(method: MethodLike) -> None:
    """Query, key and value in one parameter come out as in three, bit for bit, from methods that write parts.

    What follows them differs by the rounding of torch's two ways.
    """
    if not all(m.writes_parts for m in registry.resolve(method)):
        return
    packed, separate = build(Text), build(lambda: Text(packed=False))
    state = dict(packed.state_dict())
    for name, value in zip("qkv", state.pop("attention.in_proj_weight").chunk(3), strict=True):
        state[f"attention.{name}_proj_weight"] = value
    separate.load_state_dict(state)
    first, second = (attempt(method, model, tokens()) for model in (packed, separate))
    if first is None or second is None:
        return
    require(first.changed == second.changed, "packed and separate attention change other layers")
    if "default" in str(method):  # the module draws packed weights at another size
        return
    found = weights_of(packed)
    for name, value in zip("qkv", found.pop("attention.in_proj_weight").chunk(3), strict=True):
        found[f"attention.{name}_proj_weight"] = value
    other = weights_of(separate)
    require_close(found, other, "packed and separate attention")
    projections = {n: v for n, v in found.items() if "_proj_weight" in n}
    require_equal(projections, other, "packed and separate attention")


@contract
def parts_alone(method: MethodLike) -> None:
    """A model that is a recurrent layer, and one that is attention, work or are refused."""
    attempt(method, build(lambda: nn.GRU(4, 5)), torch.rand(9, 6, 4, generator=torch.Generator().manual_seed(0)))
    cell = build(lambda: nn.LSTMCell(4, 5))
    attempt(method, cell, torch.rand(9, 4, generator=torch.Generator().manual_seed(0)))
