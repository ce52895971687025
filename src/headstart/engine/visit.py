"""One layer, as a method sees it: what it receives, and how it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from headstart import rng
from headstart.engine.draws_ahead import Draw, draw
from headstart.engine.model_view import ModelView
from headstart.errors import DataError, HeadstartError, WriteError
from headstart.measure.positions import Positions
from headstart.model import weights
from headstart.model.later import Then
from headstart.model.own_forward import require_affine
from headstart.model.weights import Layer
from headstart.numerics.fetching import Values
from headstart.numerics.moments import MIN_VALUES, Moments, totals
from headstart.results.report import Action, Row, row_sums, summarize, summary

ZEROS = "all its weights are zero, which is taken for a choice"


class Steps(Protocol):
    """What a visit needs from a method."""

    info: ClassVar[Any]

    @property
    def leaves_zeros(self) -> bool:
        """Whether all-zero weights stay."""

    def before(self, visit: Visit) -> None:
        """Write the layer from its real input, before it computes."""

    def after(self, visit: Visit) -> None:
        """Rescale the layer after it computed."""


class Visit:
    """One layer, as a method sees it.

    Attributes:
        layer: Name, module and geometry.
        view: The model and the data of the call.
        trace: What is known of the whole model.
        report: The report of the call, being written.
        input: The layer's real input; None without data. For a linear layer under a mask, only the rows that count.
        counted: For a convolution under a mask, which places of its output count; None for all.
        counted_inputs: The same for its input.
        output: Its output, inside :meth:`Method.after`; None before.
        method: Name of the method that works now.
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
        self._moments: Moments | None = None  # as measured
        self._since: list[tuple[Tensor, Tensor | None]] = []  # scale and shift of the output since then
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
        """Whether no bias may be written: there is none, it is frozen, or it belongs to an earlier layer."""
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
        measured = self._now()
        assert measured is not None
        return measured

    @property
    def measured(self) -> Moments | None:
        """The output's moments over all positions, if they were needed: a norm that follows ignores masks."""
        return None if self._positions else self._now()

    def _now(self) -> Moments | None:
        """The moments, with the rescales since then applied."""
        found = self._moments
        for scale, shift in self._since if found is not None else ():
            assert found is not None
            found = found.affine(scale, torch.zeros_like(scale) if shift is None else shift)
        self._moments, self._since = found, []
        return found

    def generator(self, purpose: str = "weight") -> torch.Generator:
        """The random stream of (seed, layer name, purpose), on the CPU on every machine."""
        return rng.generator(self._seed, self.layer.name, purpose)

    def integer(self, purpose: str) -> int:
        """A 31-bit seed from the same stream, for libraries that take a number."""
        return rng.derive(self._seed, self.layer.name, purpose) & 0x7FFFFFFF

    def normal(self, *shape: int, purpose: str = "weight") -> Tensor:
        """Draw standard normal values in working precision on the layer's device."""
        like, ahead = self._weight_before, self.view.ahead
        wanted = Draw(self.layer.name, purpose, shape, weights.working_dtype(like.dtype))
        drawn = None if ahead is None else ahead.take(wanted)
        return (draw(self._seed, wanted) if drawn is None else drawn).to(like.device, non_blocking=True)

    def normal_weight(self, std: float = 1.0) -> Tensor:
        """Draw normal values in the weight's shape, straight into the parameter where possible.

        In large networks, new memory costs more time than the draw. :meth:`write` must follow.
        """
        place = weights.in_place(self.layer)
        if place is None or self.view.ahead is not None:
            return self.normal(*self.layer.shape).mul_(std)
        self._transaction.mark(self.layer)
        return place.normal_(0.0, std, generator=self.generator())

    def write(self, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        """Set the weight, the bias or both; raise if they read back different. The visit takes over the tensors."""
        if weight is not None:
            self._transaction.mark(self.layer)
            weights.write(self.layer, weight, finite=False, later=self.report.later)  # finish looks once for all
            # Rescaled in place later: not where the tensor is the backup, or repeats memory.
            lent = weight.data_ptr() == self._weight_before.data_ptr() or not weight.is_contiguous()
            place = weights.in_place(self.layer)
            self._weight = place if place is not None else weight.clone() if lent else weight
            self.filled = True
        if bias is not None:
            if self.bias_free:
                raise WriteError(f"{self.layer.where} has no bias that may be written.", remedy="Ask visit.bias_free.")
            self._transaction.mark(self.layer, bias=True)
            weights.write_bias(self.layer, bias, self.report.later)
        self._wrote("written")

    def zero_bias(self) -> None:
        """Set the bias to zero, if there is one that may be written."""
        if not self.bias_free:
            self._transaction.mark(self.layer, bias=True)
            bias = self.layer.bias
            assert bias is not None
            bias.zero_()
            self._wrote("written")

    def affine(self, scale: Tensor, shift: Tensor | None = None, *, keep_bias: bool = False) -> None:
        """Turn the output ``y`` into ``scale * y + shift`` by rescaling weight and bias: exact, without a second pass.

        Args:
            scale: Per channel, or one number.
            shift: Per channel; needs a bias that may be written.
            keep_bias: Rescale only what the weights make, ``scale * (y - bias) + bias``; the bias keeps its bits.
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
        scale = scale.reshape(()) if scale.numel() == 1 and scale.dim() else scale
        mine = not (keep_bias or self.bias_free)
        self._transaction.mark(self.layer)
        weight = weights.read(self.layer) if self._weight is None else self._weight
        by_row = scale.view(-1, *[1] * (len(self.layer.shape) - 1)) if scale.dim() else scale
        self._weight = weight.mul_(by_row.to(weight.dtype))
        weights.write(self.layer, self._weight, finite=False, later=self.report.later)
        bias = weights.look_bias(self.layer)
        if bias is not None and not mine:
            shift = torch.addcmul(bias, bias, scale, value=-1)
        elif bias is not None:
            self._transaction.mark(self.layer, bias=True)
            out = bias if isinstance(bias, nn.Parameter) else None  # in place where it fits
            scaled = torch.mul(bias, scale, out=out) if shift is None else torch.addcmul(shift, bias, scale, out=out)
            weights.write_bias(self.layer, scaled, self.report.later)
        shape = [1] * self.output.dim()
        shape[self.layer.channel_axis(self.output)] = channels
        factor = scale.to(self.output.dtype)
        factor = factor.view(shape) if scale.dim() else factor
        if shift is None:
            self.output.mul_(factor)
        else:
            torch.addcmul(shift.to(self.output.dtype).view(shape), self.output, factor, out=self.output)
        if self._moments is not None:
            self._since.append((scale, shift))
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
                f"{self.method}: layers whose weights are all zero were left, as a choice of their author;"
                " zeros='write' writes them."
            )

    def later(self, values: Tensor | Sequence[Tensor], then: Then) -> None:
        """Leave numbers on the device, to be read when the walk is over: see :meth:`Later.add`.

        ``then`` should not hold the visit, which would keep the layer's input in memory.
        """
        self.report.later.add(values, then)

    def checkpoint(self) -> Callable[[], None]:
        """Remember the layer's row; the function that is returned restores it, after a rescale by 1."""
        row, action, methods = self.row, self.row.action, list(self.row.methods)
        transaction, layer = self._transaction, self.layer

        def restore() -> None:
            row.action, row.methods = action, methods
            if action not in ("written", "scaled"):
                transaction.forget(layer)

        return restore

    def _wrote(self, action: Action) -> None:
        self.report.wrote(self.layer, self.method, action)

    def run(self, methods: Sequence[Steps], step: str) -> None:
        """Let the methods take their step, one after the other, and add the time to the layer's row.

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
                    remedy=f"This is a defect of the method; exclude='{self.layer.name}' skips this layer.",
                ) from error
        self.row.seconds += time.perf_counter() - start

    def complete(self, output: Tensor, methods: Sequence[Steps], inputs: Any, moments: Moments | None = None) -> None:
        """Let the methods rescale the layer once its output is known, and fill the row.

        Args:
            output: The output of the layer.
            methods: The methods that work on the layer.
            inputs: Positional and keyword arguments that the layer was called with.
            moments: The moments of the output over more data than this; measured here by default.

        Raises:
            HeadstartError: A method failed, or the layer is not affine in its weight.
        """
        self.output, self._moments, self._since = output, moments, []
        version = output._version
        self.run(methods, "after")
        if output._version != version:
            args, kwargs = inputs
            require_affine(self.layer, args, kwargs, output)
        self.finish()
        self.input = self.output = self._weight = None

    def finish(self) -> None:
        """Fill the row and check that the weight is finite, both once the numbers are read."""
        row, layer, report, count = self.row, self.layer, self.report, self._weight_before.numel()
        changed = row.action in ("written", "scaled")
        first = self.trace.first_convolution
        if layer is first and changed and not layer.is_complex:
            report.filters = (self.weight_before.clone(), self.weight)

        def weight(values: Values) -> None:
            parts = [summary(part[0], part[1], count) for part in values.reshape(-1, 2, layer.shape[0])]
            before, after = parts[0], parts[-1]
            if not math.isfinite(after[1]):
                weights.require_finite(layer, weights.look(layer))
            row.weight_mean, row.weight_std = (before[0], after[0]), (before[1], after[1])
            if layer is first and row.action not in ("written", "scaled"):
                report.filters = None

        if layer.is_complex:  # rare, and told at once
            before = summarize(self._weight_before)
            after = summarize(self.weight_now) if changed else before
            if not math.isfinite(after[1]):
                weights.require_finite(layer, self.weight_now)
            row.weight_mean, row.weight_std = (before[0], after[0]), (before[1], after[1])
        else:
            sums = [*row_sums(self._weight_before), *(row_sums(self.weight_now) if changed else ())]
            report.later.add(sums, weight)
        if self.output is None:
            return
        if self._moments is None:
            self._moments = self._positions.moments(layer, self.output)
        self._positions.note(layer, self.output)
        across, since = self._positions.across_sample_square(layer, self.output), self._since
        if self._moments.mean.is_complex():
            now = self._now()
            assert now is not None
            row.output_mean, row.output_std = now.total_mean, now.total_std
            row.across_sample_std = math.nan if across is None else math.sqrt(float(across) / 2)
            return
        changes = [part for pair in since for part in pair if part is not None]

        def output(values: Values) -> None:
            mean, var, *rest = np.split(values, np.cumsum([part.numel() for part in own]))
            for _, shift in since:
                scale = rest.pop(0)
                mean, var = mean * scale + (0 if shift is None else rest.pop(0)), var * scale**2
            row.output_mean, row.output_std = totals(mean, var)
            row.across_sample_std = math.nan if across is None else math.sqrt(values[-1] / 2)

        own = [self._moments.mean, self._moments.var, *changes]
        report.later.add([*own, *([] if across is None else [across])], output)
