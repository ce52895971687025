"""One layer, as a method meets it: what it sees, and how it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from headstart import rng
from headstart.engine.model_view import ModelView
from headstart.errors import DataError, HeadstartError, WriteError
from headstart.measure.positions import Positions
from headstart.model import weights
from headstart.model.weights import Layer
from headstart.numerics.moments import MIN_VALUES, Moments
from headstart.results.report import Row, summarize

ZEROS = "all its weights are zero, which is taken for a choice"


class Steps(Protocol):
    """What a visit asks of a method."""

    info: ClassVar[Any]

    @property
    def leaves_zeros(self) -> bool:
        """Whether all-zero weights stay."""

    def before(self, visit: Visit) -> None:
        """Write the layer from its real input, before it computes."""

    def after(self, visit: Visit) -> None:
        """Rescale the layer after it computed."""


class Visit:
    """One layer, as a method meets it.

    Attributes:
        layer: Name, module and geometry.
        view: The model and the data of the call.
        trace: What is known of the whole model.
        report: What the call will say.
        input: The layer's real input; None without data. Of a linear layer whose batch has a mask, the rows that count.
        counted: Of a convolution whose batch has a mask, which places of its output count; None for all.
        counted_inputs: Likewise, of its input.
        output: Its output, inside :meth:`Method.after`; None before.
        method: Name of the method whose turn it is.
    """

    method: str

    def __init__(self, layer: Layer, view: ModelView, value: Tensor | None, positions: Positions | None = None) -> None:
        self.view = view
        self.layer, self.trace, self.report, self.input = layer, view.trace, view.report, value
        self._positions = positions or Positions(())
        self.counted: Tensor | None = None
        self.counted_inputs: Tensor | None = None
        if self._positions and isinstance(value, Tensor):
            if layer.kind == "linear":
                self.input = self._positions.counting(layer, value)
            else:
                self.counted = self._positions.outputs(layer, value)
                self.counted_inputs = self._positions.of(layer, value)
        self.output: Tensor | None = None
        self._transaction, self._seed = view.transaction, view.seed
        self._moments: Moments | None = None
        self.filled = False
        original = view.transaction.original(layer)
        self._weight_before = weights.read(layer) if original is None else original
        self._weight: Tensor | None = None  # what is written at present, in working precision

    @property
    def row(self) -> Row:
        """The layer's row in the report."""
        return self.report.rows[self.layer.name]

    @property
    def weight(self) -> Tensor:
        """The effective weight, ``(out, in/groups, *kernel)``, as a copy in working precision."""
        return weights.read(self.layer) if self._weight is None else self._weight.clone()

    @property
    def weight_before(self) -> Tensor:
        """The weight before any method of this call wrote it (not to be changed in place)."""
        return self._weight_before.to(weights.working_dtype(self._weight_before.dtype))

    @property
    def weight_now(self) -> Tensor:
        """The effective weight without a copy where possible (not to be changed in place)."""
        return weights.read(self.layer) if self._weight is None else self._weight

    @property
    def bias(self) -> Tensor | None:
        """The bias as a copy in working precision; None if there is none."""
        return weights.read_bias(self.layer)

    @property
    def bias_free(self) -> bool:
        """Whether there is no bias that may be written (none at all, frozen, or that of a layer before)."""
        bias = self.layer.bias_parameter
        return bias is None or not bias.requires_grad or self.layer.name in self.trace.tied_biases

    @property
    def moments(self) -> Moments:
        """Mean and variance of each output channel over samples and positions.

        Raises:
            DataError: Fewer than 8 values per channel.
        """
        assert self.output is not None
        if self._moments is None:
            self._moments = self._positions.moments(self.layer, self.output)
        if self._moments.count < MIN_VALUES:
            raise DataError(
                f"The batch gives {self._moments.count} values per channel in {self.layer.where};"
                f" its statistics need at least {MIN_VALUES}.",
                remedy="Pass a larger batch, or samples= to gather more of the loader.",
            )
        return self._moments

    @property
    def measured(self) -> Moments | None:
        """The output's moments over all positions if something asked for them: a norm that follows takes no mask."""
        return None if self._positions else self._moments

    def generator(self, purpose: str = "weight") -> torch.Generator:
        """The random stream of (seed, layer name, purpose), on the CPU on every machine."""
        return rng.generator(self._seed, self.layer.name, purpose)

    def integer(self, purpose: str) -> int:
        """A 31-bit seed from the same stream, for libraries that want a number."""
        return rng.derive(self._seed, self.layer.name, purpose) & 0x7FFFFFFF

    def normal(self, *shape: int, purpose: str = "weight") -> Tensor:
        """Draw standard normal values in working precision on the layer's device."""
        like = self._weight_before
        dtype = weights.working_dtype(like.dtype)
        return torch.randn(*shape, generator=self.generator(purpose), dtype=dtype).to(like.device)

    def normal_weight(self, std: float = 1.0) -> Tensor:
        """Draw normal values in the weight's shape, into the parameter itself where that is possible.

        Large networks spend more time on fresh memory than on the draw. :meth:`write` must follow.
        """
        place = weights.in_place(self.layer)
        if place is None:
            return self.normal(*self.layer.shape).mul_(std)
        self._transaction.mark(self.layer)
        return place.normal_(0.0, std, generator=self.generator())

    def write(self, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        """Set the weight, the bias or both; what reads back different raises. The tensors become the visit's own."""
        if weight is not None:
            self._transaction.mark(self.layer)
            weights.write(self.layer, weight, finite=False)  # finish looks once for all
            # Rescaled in place later: not where the tensor is the backup, or repeats memory.
            lent = weight.data_ptr() == self._weight_before.data_ptr() or not weight.is_contiguous()
            self._weight = weight.clone() if lent else weight
            self.filled = True
        if bias is not None:
            if self.bias_free:
                raise WriteError(f"{self.layer.where} has no bias that may be written.", remedy="Ask visit.bias_free.")
            self._transaction.mark(self.layer, bias=True)
            weights.write_bias(self.layer, bias)
        self._wrote("written")

    def affine(self, scale: Tensor, shift: Tensor | None = None, *, keep_bias: bool = False) -> None:
        """Turn the output ``y`` into ``scale * y + shift`` by rescaling weight and bias; once exact, no second pass.

        Args:
            scale: Per channel, or one number.
            shift: Per channel; needs a bias that may be written.
            keep_bias: Rescale only what the weights make, ``scale * (y - bias) + bias``; the bias stays bit for bit.
                A frozen bias stays in any case.

        Raises:
            WriteError: The weight cannot be rescaled, or there is a shift and no bias to take it.
        """
        assert self.output is not None
        if shift is not None and self.bias_free:
            raise WriteError(
                f"{self.layer.where} has no bias that may be written, so its output cannot be shifted.",
                remedy="Pass shift=None where visit.bias_free.",
            )
        channels = self.layer.out_channels
        scale = scale.expand(channels)
        self._transaction.mark(self.layer)
        weight = weights.read(self.layer) if self._weight is None else self._weight
        self._weight = weight.mul_(scale.to(weight.dtype).view(-1, *[1] * (len(self.layer.shape) - 1)))
        weights.write(self.layer, self._weight, finite=False)
        bias = self.bias
        if bias is not None and (keep_bias or self.bias_free):
            shift = (1 - scale) * bias
        elif bias is not None:
            self._transaction.mark(self.layer, bias=True)
            weights.write_bias(self.layer, bias * scale if shift is None else bias * scale + shift)
        shape = [1] * self.output.dim()
        shape[self.layer.channel_axis(self.output)] = channels
        self.output.mul_(scale.to(self.output.dtype).view(shape))
        if shift is not None:
            self.output.add_(shift.to(self.output.dtype).view(shape))
        if self._moments is not None:
            self._moments = self._moments.affine(scale, torch.zeros_like(scale) if shift is None else shift)
        self._wrote("written" if self.filled else "scaled")

    def note(self, text: str) -> None:
        """Add a remark to the layer's row."""
        self.row.notes.append(text)

    def add_finding(self, sentence: str) -> None:
        """Add a finding to the report."""
        self.report.add_finding(sentence)

    def skip(self, reason: str) -> None:
        """Keep the layer as it is and say why."""
        self.report.skip(self.layer, reason)

    def _leave_zeros(self) -> None:
        if ZEROS not in self.row.notes:
            self.skip(ZEROS)
            self.add_finding(
                f"{self.method}: layers whose weights are all zero were left, since that is taken for a choice;"
                " zeros='write' writes them."
            )

    def _wrote(self, action: Any) -> None:
        self.report.wrote(self.layer, self.method, action)

    def run(self, methods: Sequence[Steps], step: str) -> None:
        """Let the methods take their step, one after the other, and charge the layer with the time.

        Raises:
            HeadstartError: A method failed.
        """
        start = time.perf_counter()
        for method in methods:
            self.method = method.info.name
            if method.leaves_zeros and self.layer.name in self.trace.zeros and not self.row.methods:
                self._leave_zeros()
                continue
            try:
                getattr(method, step)(self)
            except HeadstartError:
                raise
            except Exception as error:
                raise HeadstartError(
                    f"{self.method} failed in {self.layer.where}: {type(error).__name__}: {error}.",
                    remedy=f"This is a defect of the method; exclude='{self.layer.name}' goes around it.",
                ) from error
        self.row.seconds += time.perf_counter() - start

    def complete(self, output: Tensor, methods: Sequence[Steps], inputs: Any, moments: Moments | None = None) -> None:
        """Let the methods rescale the layer now that its output is there, and fill the row.

        Args:
            output: Of the layer.
            methods: Whose turn it is.
            inputs: Positional and keyword arguments that the layer was called with.
            moments: Of the output over more data than this; measured here by default.

        Raises:
            HeadstartError: A method failed, or the layer is not affine in its weight.
        """
        self.output, self._moments = output, moments
        version = output._version
        self.run(methods, "after")
        if output._version != version:
            args, kwargs = inputs
            weights.require_affine(self.layer, args, kwargs, output)
        self.finish()
        self.input = self.output = None

    def finish(self) -> None:
        """Fill the row with the numbers that the report shows.

        Raises:
            WriteError: What was written is not finite.
        """
        row = self.row
        before = summarize(self._weight_before)
        after = before if row.action in ("left", "skipped") else summarize(self.weight_now)
        if not math.isfinite(after[1]):
            weights.require_finite(self.layer, self.weight_now)
        row.weight_mean, row.weight_std = (before[0], after[0]), (before[1], after[1])
        drawable = self.layer is self.trace.first_convolution and not self.layer.is_complex
        if drawable and row.action in ("written", "scaled"):
            self.report.filters = (self.weight_before.clone(), self.weight)
        if self.output is not None:
            if self._moments is None:
                self._moments = self._positions.moments(self.layer, self.output)
            self._positions.note(self.layer, self.output)
            row.output_mean, row.output_std = self._moments.total_mean, self._moments.total_std
            row.across_sample_std = self._positions.across_sample_std(self.layer, self.output)
