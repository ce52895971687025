"""Mimetic attention: products of query and key weights, and of value and output weights, as in trained transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from headstart import rng
from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.measure.attention import Attention, Rows, find_attention
from headstart.model import weights
from headstart.model.weights import Layer


@register(
    "mimetic",
    summary="attention with QKᵀ near 0.7 Z + 0.7 I and VO near 0.4 Z - 0.4 I, as in trained transformers",
    reference="Trockman and Kolter 2023, Mimetic initialization of self-attention layers",
    scope="all layers",
    needs_data=True,
    cost="one forward pass of the batch, one of two samples that records every operation, and one singular value"
    " decomposition per head",
    presets=("control",),
    deviations=(
        "Attention is found from the operations of the forward pass. It is left if groups of queries share keys, or"
        " if heads are wider than the input.",
        "Position embeddings stay as they are; the authors also set them to sinusoids.",
        "Biases of the projections are set to zero.",
    ),
    depends_on_other_layers=True,
)
@dataclass(frozen=True)
class Mimetic(Method):
    """Make the product of each head's query and key weights nearly a multiple of the identity, plus noise.

    The idea: in trained vision transformers ``W_Q W_Kᵀ`` has a strong positive diagonal (tokens attend to similar
    ones), and ``W_V W_O`` a negative one. So draw ``α Z + β I``, with ``Z`` of variance ``1/d``, and factor it by
    singular values: for queries and keys with the ``d/h`` largest of one draw per head, for values and outputs of one
    draw for all heads.

    Args:
        qk: ``(α, β)`` of queries and keys. Default ``(0.7, 0.7)``.
        vo: ``(α, β)`` of values and outputs; β is subtracted. Default ``(0.4, 0.4)``.
        vectors: ``"own"`` (default); or ``"random"``, the control: random orthogonal matrices around the same
            singular values, so that spectra and norms of all four weights are exactly those of the method.

    Raises:
        HeadstartError: An option is out of range, or the model cannot be run.

    Example:
        >>> import torch, headstart as hs
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> class SelfAttention(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.attention = attention
        ...     def forward(self, x):
        ...         return self.attention(x, x, x)[0]
        >>> hs.initialize(SelfAttention(), torch.randn(16, 5, 8), "mimetic").changed
        ['attention.q', 'attention.k', 'attention.v', 'attention.out_proj']
    """

    qk: tuple[float, float] = (0.7, 0.7)
    vo: tuple[float, float] = (0.4, 0.4)
    vectors: str = "own"
    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("vectors", "own", "random")
        for name in ("qk", "vo"):
            pair = getattr(self, name)
            ok = len(pair) == 2 and all(math.isfinite(v) and v >= 0 for v in pair) and any(pair)
            self.check(ok, f"{name}={pair!r} is not a pair of factors", "Pass two numbers from 0, such as (0.7, 0.7)")

    @classmethod
    def control(cls, **options: Any) -> Mimetic:
        """Random orthogonal vectors around exactly the same singular values."""
        return cls(**{"vectors": "random", **options})

    def finish(self, view: ModelView) -> None:
        """Find attention and write it."""
        assert view.batch is not None
        found = find_attention(view.model, view.batch)
        layers = {layer.name: layer for layer in view.layers}
        values: dict[str, Tensor] = {}
        written, left = 0, list(found.left)
        for attention in found.attentions:
            reason = _reason_to_leave(attention, layers)
            if reason:
                left.append(reason)
            else:
                self._write(view, attention, layers, values)
                written += 1
        for name, value in values.items():
            bias = layers[name].bias
            own = weights.read_bias(layers[name])
            if own is not None and bias is not None:
                own[_touched(found.attentions, name, len(own))] = 0
            view.write(layers[name], value, own)
        if written:
            view.report.add_finding(f"mimetic: {written} attentions of {found.attentions[0].heads} heads were written.")
        else:
            view.report.add_finding("mimetic: no attention was written.")
        for reason in dict.fromkeys(left):
            view.report.add_finding(f"mimetic: an attention was left: {reason}.")

    def _write(
        self, view: ModelView, attention: Attention, layers: Mapping[str, Layer], values: dict[str, Tensor]
    ) -> None:
        width = layers[attention.query.layer].in_channels

        def draw(purpose: str) -> Tensor:
            generator = rng.generator(view.seed, attention.query.layer, purpose)
            return torch.randn(width, width, generator=generator, dtype=torch.float64)

        def turned(matrix: Tensor, purpose: str) -> Tensor:
            """The same number of orthonormal columns; random ones for the control."""
            if self.vectors == "own":
                return matrix
            return torch.linalg.qr(draw(purpose)[:, : matrix.shape[1]])[0]

        def factors(target: Tensor, rank: int, purpose: str) -> tuple[Tensor, Tensor]:
            left, singular, right = torch.linalg.svd(target)
            size = singular[:rank].sqrt()
            sides = turned(left[:, :rank], f"{purpose}/left"), turned(right[:rank].T, f"{purpose}/right")
            return sides[0] * size, sides[1] * size

        identity = torch.eye(width, dtype=torch.float64)
        alpha, beta = self.qk
        for head, (asked, answered) in enumerate(zip(attention.query.rows, attention.key.rows, strict=True)):
            target = alpha * draw(f"qk/{head}") / math.sqrt(width) + beta * identity
            query, key = factors(target, len(asked), f"qk/{head}")
            _put(layers, values, attention.query.layer, asked, query.T)
            _put(layers, values, attention.key.layer, answered, key.T)
        if not attention.output:
            return
        alpha, beta = self.vo
        rows = [r for head in attention.value.rows for r in head]
        target = alpha * draw("vo") / math.sqrt(width) - beta * identity
        value, output = factors(target, len(rows), "vo")
        _put(layers, values, attention.value.layer, tuple(rows), value.T)
        whole = layers[attention.output]
        _put(layers, values, attention.output, tuple(range(whole.out_channels)), output)


def _put(
    layers: Mapping[str, Layer], values: dict[str, Tensor], name: str, rows: tuple[int, ...], block: Tensor
) -> None:
    value = values.setdefault(name, weights.read(layers[name]))
    value[list(rows)] = block.to(value)


def _touched(attentions: tuple[Attention, ...], name: str, size: int) -> list[int]:
    """The outputs of a layer that attentions take; all outputs of an output projection."""
    rows: list[int] = []
    for attention in attentions:
        for part in (attention.query, attention.key, attention.value):
            rows += [r for head in part.rows for r in head] if part.layer == name else []
        if attention.output == name:
            return list(range(size))
    return rows


def _reason_to_leave(attention: Attention, layers: Mapping[str, Layer]) -> str:
    parts = (attention.query, attention.key, attention.value)
    names = [*(part.layer for part in parts), *([attention.output] if attention.output else [])]
    missing = [name for name in names if name not in layers]
    if missing:
        return f"'{missing[0]}' was not selected"
    if len({layers[part.layer].in_channels for part in parts}) > 1:
        return f"'{attention.query.layer}' and '{attention.key.layer}' take inputs of different widths"
    if any(layers[name].kind != "linear" for name in names):
        return f"'{names[0]}' is not a linear layer"
    width = layers[attention.query.layer].in_channels
    heads = [len(part.rows) for part in parts]
    if len(set(heads)) > 1:
        return f"{heads[0]} heads of '{attention.query.layer}' share {heads[1]} heads of keys"
    if max(map(_width, parts)) > width or sum(map(len, attention.value.rows)) > width:
        return f"the heads of '{attention.query.layer}' are wider than its input"
    if attention.output:
        whole = layers[attention.output]
        if (whole.out_channels, whole.in_channels) != (width, sum(map(len, attention.value.rows))):
            return f"'{attention.output}' does not return to the width of the input"
    return ""


def _width(rows: Rows) -> int:
    return len(rows.rows[0])
