"""Between-layer balance: all layers learn at one relative rate (Krähenbühl et al. 2016, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart import rng
from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.errors import ModelError
from headstart.measure.gradients import LossFunction, forward_backward
from headstart.measure.sample_gradients import SampleGradients
from headstart.measure.weight_products import by_input
from headstart.methods.data_dependent.rates import Energies, solve
from headstart.model import weights
from headstart.model.norms import fresh_batch_norms
from headstart.model.weights import Layer, to_canonical
from headstart.numerics.fetching import Values, fetch
from headstart.numerics.lengths import lengths
from headstart.symmetries.operations import PINNED
from headstart.symmetries.rescaling import follow, rescale, rescale_checked, rescale_seen, within_range
from headstart.symmetries.scale_classes import Integers, ScaleFlow

SAMPLES = 32  # a backward pass keeps every activation of them
FEWEST = 8  # samples from which the uncertainty can be estimated
RESAMPLES = 400


@register(
    "balance",
    summary="layers rescaled so that all learn at one relative rate, without changing the function",
    reference="Krähenbühl, Doersch, Donahue and Darrell 2016, Data-dependent Initializations of CNNs, algorithm 2",
    scope="all layers",
    needs_data=True,
    cost="a forward and a backward pass of up to 32 samples, with the weights' gradients computed twice, and a trace"
    " of two samples; more passes only if something is not exactly homogeneous",
    presets=("paper",),
    deviations=(
        "The exponent has the sign of the authors' code: the printed sign drives the rates apart.",
        "If the network is positively homogeneous, the factors are computed once in closed form, instead of in about"
        " ten damped rounds.",
        "Every operation is run on rescaled inputs to see what it does to scales. So the function is kept with sums,"
        " concatenations and normalizations too; the published algorithm is for chains of layers.",
        "Gradients are squared sample by sample, not after summing, and the random gradients at the outputs are"
        " orthogonal: the expectation is the same, with a tenth of the noise.",
        "Fresh batch norms remove part of a batch's gradient. The estimate accounts for that if the norm directly"
        " follows the layer, and only partly or not at all if a sum or an activation lies between.",
        "The deviation of the network's output is left as it is; the authors' code moves it towards 1.",
        "Scales stay within a third of the exponents of the number format: at 100 plain layers equal rates would need"
        " more than float32 holds.",
    ),
    depends_on_other_layers=True,
    # 2: gradients are squared sample by sample; 3: those of padding are left out; 4: in one product of matrices;
    # 5: products between places where these are few
    revision=5,
)
@dataclass(frozen=True)
class Balance(Method):
    """Rescale whole layers, and compensate in the layers that follow, so that their rates agree.

    The idea: a layer's *rate* is the size of its gradient relative to its weights, ``sqrt(mean g² / mean w²)``.
    If rates differ, some layers have learned while others have hardly moved. Multiplying a layer by ``s`` and
    dividing the layers that take its output by ``s`` keeps the function of a ReLU network, and divides the layer's
    rate by ``s²``. Gradients come from random numbers at the outputs, so no labels are needed. They are squared
    sample by sample, which avoids the noise of the cross terms. The report says how well the rates are known.

    Run it last: after fills and scalings, ``["within-layer", "balance"]``.

    Args:
        loss_fn: ``loss_fn(outputs, batch) -> scalar``; its gradients are used instead. It gets the whole batch,
            with targets.
        almost: What to do if an activation is not homogeneous, such as GELU: ``"damped"`` rescales step by step and
            measures again, which changes the function a little; ``"leave"`` keeps the function.
        damping: The share of a factor's logarithm that a damped step applies.
        iterations: The largest number of damped steps.
        tolerance: Damped steps end when no factor changes by more than this share.

    Raises:
        HeadstartError: The model cannot be differentiated.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
        >>> x = torch.randn(64, 20)
        >>> y = net(x)
        >>> report = hs.initialize(net, x, "balance")
        >>> torch.allclose(net(x), y, atol=1e-5)
        True
        >>> "-fold after, with 95 % confidence (in closed form)" in report.findings[-1]
        True
    """

    loss_fn: LossFunction | None = None
    almost: str = "damped"
    damping: float = 0.5
    iterations: int = 10
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        self.check_choice("almost", "damped", "leave")
        self.check(self.loss_fn is None or callable(self.loss_fn), "loss_fn cannot be called", "Pass a function")
        self.check(0 < self.damping <= 1, f"damping={self.damping!r} is not a share", "Pass a number up to 1")
        self.check(self.iterations >= 1, f"iterations={self.iterations!r} is less than 1", "Pass 1 or more")
        self.check(self.tolerance > 0, f"tolerance={self.tolerance!r} is not positive", "Pass a share such as 0.01")

    @classmethod
    def paper(cls, **options: Any) -> Balance:
        """The published damping: ten steps with a quarter of each factor (if steps are damped at all)."""
        return cls(**{"damping": 0.25, "iterations": 10, **options})

    def finish(self, view: ModelView) -> None:
        """Measure, solve, rescale."""
        if view.batch is None or not view.layers:
            return
        flow = follow(view)
        for layer in view.layers:
            reason = flow.reasons.get(layer.name)
            if reason and layer.name not in view.trace.outputs:
                view.report.rows[layer.name].notes.append(f"balance: output scale kept, since {reason}")
        measured = self._measure(view, flow)
        before = _rates(measured.energies)
        solved = solve(_without(measured.energies, flow.almost))
        exact = within_range(view, solved, {})
        applied = rescale_checked(view, flow, {label: v for label, v in exact.items() if label not in flow.normed})
        if applied is None:
            view.report.add_finding(
                "balance: the rescale would have changed the model's function, so all layers were left alone."
            )
            return
        # A norm keeps the function up to its epsilon, which counts where values are small: at the start of training.
        normed = {label: value for label, value in exact.items() if label in flow.normed}
        kept: dict[int, float] | None = {}
        if self.almost == "damped":
            kept = rescale_seen(view, flow, normed) if normed else {}
        elif (kept := rescale_checked(view, flow, normed)) is None:
            view.report.add_finding(
                "balance: layers before norms keep their scale: their epsilon would change the function."
            )
        steps = 0
        if flow.almost and self.almost == "damped":
            steps = self._damped(view, flow, exact)
        for layer in view.layers:
            row = view.report.rows[layer.name]
            if row.action == "left" and not row.notes:
                row.notes.append("balance: the scales around it are fixed, or agree")
        if kept is not None and not steps:  # known in closed form
            after, scales = measured, {**applied, **kept}
        else:
            after, scales = self._measure(view, flow), {}
        how = "in closed form" if exact else "not in closed form"
        _report(view, before, after, scales, how + (f", then in {steps} damped steps" if steps else ""))
        if exact != solved:
            view.report.add_finding(
                "balance: equal rates need scales beyond the number format, so all factors were reduced together."
            )

    def _damped(self, view: ModelView, flow: ScaleFlow, exact: Mapping[int, float]) -> int:
        """Rescale in small steps if the effect has no closed form, and measure after each step."""
        steps, so_far = 0, dict(exact)
        for _ in range(self.iterations):
            found = solve(self._measure(view, flow).energies)
            wanted = {label: self.damping * value for label, value in found.items()}
            scales = within_range(view, wanted, so_far)
            for label, value in rescale(view, flow, scales).items():
                so_far[label] = so_far.get(label, 0.0) + value
            steps += 1
            if max((abs(value) for value in scales.values()), default=0.0) < self.tolerance:
                break
        return steps

    def _measure(self, view: ModelView, flow: ScaleFlow) -> Measured:
        """Measure the terms of every layer's rate in one forward and one backward pass."""
        assert view.batch is not None
        batch = view.batch if self.loss_fn else view.batch.head(SAMPLES)
        seed = rng.derive(view.seed, "balance")
        coupled = batch.size > 1 and bool(fresh_batch_norms(view.model))
        # The gradient of a loss is what it is; random ones stand for all that could come.
        whole = [name for name, use in flow.uses.items() if bool((use.inputs == use.inputs[0]).all())]
        samples = None if self.loss_fn else SampleGradients(view.layers, batch.size, coupled, whole)
        view.transaction.rewind()
        raw = view.batch.raw
        passes = forward_backward(view.model, view.trace, batch, raw, self.loss_fn, seed, samples, look=False)
        if passes.gradients is None:
            raise ModelError(
                f"balance needs gradients: {' '.join(passes.notes)}",
                remedy="Check that the model can be trained, or leave balance out.",
            )
        gradients = {
            la.name: (la, g.detach())
            for la in view.layers
            if la.name in flow.uses and (g := passes.gradients.get(la.name)) is not None
        }
        measured = Measured()
        if samples is None:
            squares = _squares([(layer, to_canonical(layer, g)) for layer, g in gradients.values()], whole)
        else:
            measured.one_draw = [n for n in samples.finish(passes.gradients) if n in flow.uses]
            squares = samples.squares
        sizes = _squares([(layer, weights.look(layer)) for layer, _ in gradients.values()], whole)
        for name in gradients:
            use = flow.uses[name]
            parts = _by_class(squares[name], use.inputs)
            weight = _by_class(sizes[name], use.inputs)
            measured.samples[name] = parts
            measured.energies[name] = Energies(int(use.outputs[0]), _sums(parts), _sums(weight))
        return measured


@dataclass
class Measured:
    """The measurements of one forward and one backward pass.

    Attributes:
        energies: Layer name -> the terms of its rate.
        samples: The samples' shares of the squared gradients, by scale class; a single row if samples cannot be kept
            apart.
        one_draw: Names of layers whose samples cannot be kept apart.
    """

    energies: dict[str, Energies] = field(default_factory=dict)
    samples: dict[str, dict[int, Values]] = field(default_factory=dict)
    one_draw: list[str] = field(default_factory=list)

    def spread(self, scales: Mapping[int, float], seed: int) -> float | None:
        """How far apart the logarithms of the true rates may be after a rescale, with 95 % confidence.

        Samples are redrawn with replacement, and the rates are estimated from each draw (bootstrap).

        Returns:
            None if it cannot be estimated: too few samples, too few that reach a layer, or a layer with a single draw.
        """
        layers = {name: layer for name, layer in self.energies.items() if layer.measurable}
        sizes = {len(part) for name in layers for part in self.samples[name].values()}
        if len(sizes) != 1 or (size := sizes.pop()) < FEWEST:
            return None
        generator = rng.generator(seed, "balance", "bootstrap")
        drawn = torch.randint(size, (RESAMPLES, size), generator=generator)
        counts = np.stack([np.bincount(row, minlength=size) for row in drawn.numpy()])
        rates = []
        for name, layer in layers.items():
            parts = self.samples[name]
            top = 2 * max(scales.get(label, 0.0) for label in parts)  # of the exponents, which may be large
            weighted = {label: part * math.exp(2 * scales.get(label, 0.0) - top) for label, part in parts.items()}
            total = np.sum([counts @ part for part in weighted.values()], axis=0)
            estimate = sum(float(part.sum()) for part in weighted.values())
            with np.errstate(divide="ignore", invalid="ignore"):
                rates.append(layer.log_rate(scales) + 0.5 * np.log(total / estimate))
        with np.errstate(invalid="ignore"):
            found = float(np.quantile(np.ptp(np.stack(rates), axis=0), 0.95))
        return found if math.isfinite(found) else None


def _squares(values: Sequence[tuple[Layer, Tensor]], whole: Collection[str]) -> dict[str, Values]:
    """Sums of squares of canonical tensors, ``(1, in_channels)``, or ``(1, 1)`` if all channels have one class."""
    single = [tensor for layer, tensor in values if layer.name in whole]
    found = iter(lengths(single))
    roots = [
        next(found).view(1) if layer.name in whole else by_input(layer, tensor[None])[0] for layer, tensor in values
    ]
    return {layer.name: np.square(part)[None] for (layer, _), part in zip(values, fetch(roots), strict=True)}


def _sums(parts: Mapping[int, Values]) -> dict[int, float]:
    return {label: float(part.sum()) for label, part in parts.items()}


def _by_class(squares: Values, inputs: Integers) -> dict[int, Values]:
    """Sum the squares of every sample, ``(samples, in_channels)`` or one column, by the class of the input channel."""
    labels = inputs.clip(PINNED)  # what is always zero has no gradient and no effect: with the pinned class
    if squares.shape[1] == 1:
        return {int(labels[0]): squares[:, 0]}
    return {label: squares[:, labels == label].sum(1) for label in np.unique(labels).tolist()}


def _without(energies: Mapping[str, Energies], almost: set[int]) -> dict[str, Energies]:
    """Treat the classes whose effect is only known roughly as fixed."""

    def fixed(parts: Mapping[int, float]) -> dict[int, float]:
        found: dict[int, float] = {}
        for label, value in parts.items():
            place = PINNED if label in almost else label
            found[place] = found.get(place, 0.0) + value
        return found

    return {
        name: Energies(PINNED if e.output in almost else e.output, fixed(e.gradients), fixed(e.weights))
        for name, e in energies.items()
    }


def _rates(energies: Mapping[str, Energies], scales: Mapping[int, float] | None = None) -> list[float]:
    """Logarithms of the rates, after a rescale that is known in closed form."""
    return [layer.log_rate(scales or {}) for layer in energies.values() if layer.measurable]


def _report(view: ModelView, before: list[float], after: Measured, scales: Mapping[int, float], how: str) -> None:
    if len(before) < 2:
        view.report.add_finding("balance: fewer than two layers have a rate, so there was nothing to balance.")
        return
    rates = _rates(after.energies, scales)
    first, now = (math.exp(max(found) - min(found)) for found in (before, rates))
    sure = after.spread(scales, view.seed)
    if sure is None:
        text = f"{now:.3g}-fold after, by a single gradient"
    else:
        text = f"less than {max(math.exp(sure), now):.3g}-fold after, with 95 % confidence"
    view.report.add_finding(
        f"balance: the rates of {len(before)} layers spread {first:.3g}-fold before and {text} ({how})."
    )
    if after.one_draw:
        names = ", ".join(f"'{name}'" for name in after.one_draw[:4]) + (" and others" * (len(after.one_draw) > 4))
        view.report.add_finding(
            f"balance: samples cannot be kept apart in {names}, so their rates come from one random draw."
        )
