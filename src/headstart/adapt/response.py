"""Outputs of layers whose input channels changed: measure them on new data, and rescale them to a target deviation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headstart.adapt.channel_mix import RULES
from headstart.adapt.input_layers import InputLayers, Stem
from headstart.errors import DataError, HeadstartError, WriteError
from headstart.model.forward import first_input, run
from headstart.model.hooks import EndOfPass, hooked
from headstart.model.inputs import Batch
from headstart.model.norms import fresh_batch_norms, never_run
from headstart.model.trace import trace_model
from headstart.model.transaction import Transaction
from headstart.model.weights import from_canonical, to_canonical
from headstart.numerics.moments import MIN_VALUES, Moments, channel_moments

NEGLIGIBLE = 1e-4  # a channel whose deviation is so small a part of its layer's is not made larger
OFF_CENTRE = 0.5  # deviations by which means may differ from those that a batch norm expects
_EXACT = 1e-3


@dataclass
class Response:
    """The output of a layer on the new data; deviations are root mean squares over channels.

    Attributes:
        layer: Qualified name.
        match: What it was matched to; empty if nothing was matched.
        wanted: The target deviation.
        before: Deviation before the rescale.
        after: Deviation after the rescale.
        factors: Smallest and largest factor of the weights; None without a rescale.
    """

    layer: str
    match: str
    wanted: float | None
    before: float
    after: float
    factors: tuple[float, float] | None = None


class ResponseMatcher:
    """Measures outputs and rescales layers.

    Args:
        transaction: The transaction of the model, which has its new layers.
        stems: The changed layers.
        match: See `headstart.adapt_conv`.
        per: ``layer`` or ``channel``.
        recentre: Also move the running means of trained batch norms.

    Attributes:
        responses: One per layer that ran.
        moments: The moments of each layer's output, after the rescale.
        means: Running means of batch norms, with their new values.
        findings: Sentences for the report.
    """

    def __init__(self, transaction: Transaction, stems: InputLayers, match: str, per: str, recentre: bool) -> None:
        self.responses: list[Response] = []
        self.moments: dict[str, Moments] = {}
        self.means: list[tuple[str, Tensor, Tensor]] = []
        self.findings: list[str] = []
        self._transaction, self._model = transaction, transaction.model
        self._stems, self._match, self._per = stems, match, per
        self._recentre = recentre
        self._originals: dict[str, Moments] = {}

    def run(self, batch: Batch, reference: Batch | None) -> None:
        """Measure the layers on the data, and rescale them.

        Raises:
            HeadstartError: There is nothing to match, or it cannot be reached.
        """
        if reference is not None:
            self._transaction.rewind()
            with self._stems.undone():
                self._pass(reference, self._look)
        self._transaction.rewind()
        self._plan = trace_model(self._model, batch)
        self._transaction.rewind()
        self._fresh = fresh_batch_norms(self._model)
        self._pass(batch, self._adapt)
        for stem in self._stems.found:
            if stem.name not in self.moments:
                self.findings.append(f"'{stem.name}' is not run by the forward pass, so its output was not measured.")

    def _pass(self, batch: Batch, visit: Callable[[Stem, Any, Any, Tensor], Tensor]) -> None:
        """Run the model up to the last changed layer; each is visited on its first use."""
        waiting = {stem.name for stem in self._stems.found}

        def look(stem: Stem, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
            if stem.name not in waiting:
                return None
            waiting.remove(stem.name)
            changed = visit(stem, args, kwargs, output)
            if not waiting:
                raise EndOfPass
            return changed

        stems = [(stem, stem.layer.module) for stem in self._stems.found]
        with hooked(stems, after=look, no_grad=False) as hooks:
            run(self._model, batch, until=hooks)

    def _look(self, stem: Stem, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        self._originals[stem.name] = _moments(stem, output)
        return output

    def _adapt(self, stem: Stem, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        """Measure a layer, rescale it, and compare with what the layer behind it expects."""
        found = _moments(stem, output)
        response = Response(stem.name, "", None, _std(found.var), _std(found.var))
        self.responses.append(response)
        if self._match not in RULES:
            output, found = self._rescale(stem, response, args, kwargs, output, found)
        self.moments[stem.name] = found
        self._centre(stem, found)
        return output

    def _rescale(
        self, stem: Stem, response: Response, args: Any, kwargs: Any, output: Tensor, found: Moments
    ) -> tuple[Tensor, Moments]:
        response.match, wanted = self._wanted(stem, args, kwargs)
        response.wanted = _std(wanted)
        if not response.before > 0 or not response.wanted > 0:
            raise DataError(
                f"The output of {stem.layer.where} does not vary on the data, or its target is zero"
                f" ({response.before:.3g}, target {response.wanted:.3g} by {response.match}).",
                remedy="Pass data that varies, or match='response'.",
            )
        factors = self._factors(found.var, wanted)
        kept = stem.new.clone()
        canonical = to_canonical(stem.layer, kept)
        scaled = canonical * factors.to(canonical).view(-1, *[1] * (canonical.dim() - 1))
        stem.new.copy_(from_canonical(stem.layer, scaled))
        again = stem.layer.module.forward(*args, **kwargs)
        after = _moments(stem, again)
        expected = _std(found.var * factors.to(found.var) ** 2)
        loose = _EXACT if output.dtype in (torch.float32, torch.float64) else 0.05
        if not abs(_std(after.var) / expected - 1) <= loose:
            stem.new.copy_(kept)
            self._not_affine(stem, response)
            return output, found
        response.after = _std(after.var)
        least, most = response.factors = (float(factors.min()), float(factors.max()))
        if most > 10 * least:
            self.findings.append(
                f"The factors of the channels of '{stem.name}' differ up to {most / least:.3g}-fold: some filters"
                " respond to differences of old channels that the new ones do not have. per='layer' keeps those small."
            )
        return again, after

    def _wanted(self, stem: Stem, args: Any, kwargs: Any) -> tuple[str, Tensor]:
        """The target variance of each output channel, and where it comes from."""
        norm = self._plan.norm_after.get(stem.name)
        match = self._match
        trained = self._trained(stem)
        if match == "auto":
            match = "batch-norm" if trained is not None and not self._originals else "original"
        if match == "batch-norm":
            if trained is None:
                behind = f"'{norm}' behind it has no trained statistics" if norm else "there is none behind it"
                raise HeadstartError(
                    f"match='batch-norm' needs a trained batch norm that takes the output of {stem.layer.where};"
                    f" {behind}.",
                    remedy="Pass match='original', with reference= if you have data of the old kind.",
                )
            return f"batch norm '{norm}'", trained.running_var.detach()
        if match == "unit":
            return "unit deviation", torch.ones(stem.layer.out_channels, device=stem.new.device)
        if self._originals:
            if stem.name not in self._originals:
                raise HeadstartError(f"{stem.layer.where} is not run on the reference, so it has no output to match.")
            return "the original layer on the reference", self._originals[stem.name].var
        return "the original layer on the same data", self._on_stand_ins(stem, args, kwargs).var

    def _trained(self, stem: Stem) -> Any:
        """The trained batch norm that takes the layer's output, also a frozen one; None if there is none."""
        norm = self._plan.norm_after.get(stem.name)
        module: Any = None if norm is None else self._model.get_submodule(norm)
        mean, var = (getattr(module, name, None) for name in ("running_mean", "running_var"))
        has = isinstance(mean, Tensor) and isinstance(var, Tensor) and len(var) == stem.layer.out_channels
        return module if has and norm not in self._fresh and not never_run(module) else None

    def _on_stand_ins(self, stem: Stem, args: Any, kwargs: Any) -> Moments:
        """Run the original layer on the new data; each old channel gets the closest new one."""
        value = first_input(args, kwargs)
        axis = value.dim() - 1 - len(stem.layer.kernel)
        picked = value.index_select(axis, torch.tensor(stem.mix.stand_ins(), device=value.device))
        if not args:
            kwargs = {**kwargs, next(k for k, v in kwargs.items() if v is value): picked}
        with self._stems.undone():
            output = stem.layer.module.forward(*((picked, *args[1:]) if args else ()), **kwargs)
        return _moments(stem, output)

    def _factors(self, variance: Tensor, wanted: Tensor) -> Tensor:
        variance, wanted = variance.double(), wanted.to(variance.device).double()
        if self._per == "layer":
            return (wanted.mean() / variance.mean()).sqrt().expand(len(variance))
        heard = variance > NEGLIGIBLE**2 * variance.mean()
        if not bool(heard.all()):
            self.findings.append(f"{int((~heard).sum())} output channels hardly vary on the data and keep their scale.")
        return torch.where(heard, (wanted / variance).sqrt(), torch.ones_like(variance))

    def _not_affine(self, stem: Stem, response: Response) -> None:
        """Report a layer that standardizes its weight: its scale cannot be changed."""
        what = (
            f"Rescaling the weight of {stem.layer.where} does not rescale its output (weight standardization,"
            f" for instance), which has a deviation of {response.before:.3g} instead of {response.wanted:.3g}"
        )
        if self._match != "auto":
            raise WriteError(f"{what}.", remedy="Pass match='response' to leave it as it is.")
        self.findings.append(f"{what}; it was left.")

    def _centre(self, stem: Stem, found: Moments) -> None:
        """Compare the means with those that a trained batch norm expects; adapt the norm if ``recentre`` is set."""
        norm, module = self._plan.norm_after.get(stem.name, ""), self._trained(stem)
        if module is None:
            if self._recentre:
                raise HeadstartError(
                    f"recentre=True needs a trained batch norm that takes the output of {stem.layer.where}.",
                    remedy="Centre the data instead.",
                )
            return
        if self._recentre:
            module.running_mean.copy_(found.mean)
            self.means.append((norm, module.running_mean, module.running_mean.clone()))
            return
        gap = (found.mean - module.running_mean).square().mean() / module.running_var.mean()
        if float(gap) > OFF_CENTRE**2:
            self.findings.append(
                f"The outputs of '{stem.name}' are {math.sqrt(float(gap)):.2g} deviations off the means that batch norm"
                f" '{norm}' expects: centre each new channel of the data as the old ones were, or pass recentre=True."
            )


def _moments(stem: Stem, output: Tensor) -> Moments:
    if not isinstance(output, Tensor):
        raise HeadstartError(f"{stem.layer.where} does not return a tensor.", remedy="Pass match='response'.")
    found = channel_moments(output, stem.layer.channel_axis(output))
    if found.count < MIN_VALUES:
        raise DataError(
            f"The batch gives {found.count} values per channel in {stem.layer.where}; its statistics need at least"
            f" {MIN_VALUES}.",
            remedy="Pass a larger batch, or samples= to gather more of the loader.",
        )
    return found


def _std(variance: Tensor) -> float:
    return math.sqrt(float(variance.double().mean()))
