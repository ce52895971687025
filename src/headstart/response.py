"""Outputs of layers whose input channels changed: measured on new data, and brought to a deviation that fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headstart.channels import RULES
from headstart.errors import DataError, HeadstartError, WriteError
from headstart.inputs import Batch
from headstart.moments import Moments, channel_moments
from headstart.norms import fresh_batch_norms, never_run
from headstart.plan import Where, failing_forward, first_input, make_plan
from headstart.stems import Stem, Stems
from headstart.walk import MIN_VALUES
from headstart.weights import from_canonical, to_canonical

NEGLIGIBLE = 1e-4  # a channel whose deviation is so small a part of its layer's is not made larger
_EXACT = 1e-3


@dataclass
class Response:
    """The output of a layer on the new data; deviations are root mean squares over channels.

    Attributes:
        layer: Qualified name.
        match: What it was matched to; empty where nothing was.
        wanted: Deviation that this asks for.
        before: Deviation with the weights that the channels were made of.
        after: Deviation after the rescale.
        factors: Smallest and largest factor of the weights; None where there was no rescale.
    """

    layer: str
    match: str
    wanted: float | None
    before: float
    after: float
    factors: tuple[float, float] | None = None


class _Seen(BaseException):
    """Ends a forward pass that has shown what it was run for."""


class Responder:
    """Measures and rescales.

    Args:
        model: In evaluation mode, inside a transaction, with its new layers.
        stems: Those.
        match: See `headstart.adapt_conv`.
        per: ``layer`` or ``channel``.

    Attributes:
        responses: One per layer that ran.
        moments: Of each layer's output, after the rescale.
        means: Running means of batch norms, and their new values.
        findings: Sentences for the report.
    """

    def __init__(self, model: nn.Module, stems: Stems, match: str, per: str) -> None:
        self.responses: list[Response] = []
        self.moments: dict[str, Moments] = {}
        self.means: list[tuple[str, Tensor, Tensor]] = []
        self.findings: list[str] = []
        self._model, self._stems, self._match, self._per = model, stems, match, per
        self._originals: dict[str, Moments] = {}

    def run(self, batch: Batch, reference: Batch | None) -> None:
        """Look at the layers on the data, and rescale them.

        Raises:
            HeadstartError: There is nothing to match, or it cannot be reached.
        """
        if reference is not None:
            with self._stems.undone():
                self._pass(reference, self._look)
        self._plan = make_plan(self._model, batch)
        self._fresh = fresh_batch_norms(self._model)
        self._pass(batch, self._match_layer)
        for stem in self._stems.found:
            if stem.name not in self.moments:
                self.findings.append(f"'{stem.name}' is not run by the forward pass, so its output was not measured.")

    def _pass(self, batch: Batch, visit: Callable[[Stem, Any, Any, Tensor], Tensor]) -> None:
        """Run the model up to the last stem; each is visited on its first use."""
        waiting = {stem.name for stem in self._stems.found}

        def hook_of(stem: Stem) -> Any:
            def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
                if stem.name not in waiting:
                    return None
                waiting.remove(stem.name)
                changed = visit(stem, args, kwargs, output)
                if not waiting:
                    raise _Seen
                return changed

            return hook

        handles = [
            stem.layer.module.register_forward_hook(hook_of(stem), with_kwargs=True, prepend=True)
            for stem in self._stems.found
        ]
        try:
            with failing_forward(batch, Where()):
                self._model(*batch.args, **batch.kwargs)
        except _Seen:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _look(self, stem: Stem, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        self._originals[stem.name] = _moments(stem, output)
        return output

    def _match_layer(self, stem: Stem, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        found = _moments(stem, output)
        self.moments[stem.name] = found
        before = _std(found.var)
        response = Response(stem.name, "", None, before, before)
        self.responses.append(response)
        if self._match in RULES:
            return output
        kind, response.match, wanted = self._wanted(stem, args, kwargs)
        response.wanted = _std(wanted)
        if not before > 0 or not response.wanted > 0:
            raise DataError(
                f"The output of {stem.layer.where} does not vary on the data, or should not"
                f" ({before:.3g}, to be {response.wanted:.3g} by {response.match}).",
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
            return output
        self.moments[stem.name] = after
        response.after = _std(after.var)
        least, most = response.factors = (float(factors.min()), float(factors.max()))
        if most > 10 * least:
            self.findings.append(
                f"The factors of the channels of '{stem.name}' differ up to {most / least:.3g}-fold: some filters tell"
                " old channels apart that the new ones do not. per='layer' keeps those quiet."
            )
        if kind == "batch-norm":
            self._recentre(self._plan.norm_after[stem.name], after.mean)
        return again

    def _wanted(self, stem: Stem, args: Any, kwargs: Any) -> tuple[str, str, Tensor]:
        """Say which variance each output channel should have, and by what."""
        norm = self._plan.norm_after.get(stem.name)
        match = self._match
        trained = norm is not None and self._trained(norm, stem.layer.out_channels)
        if match == "auto":
            match = "batch-norm" if trained and not self._originals else "original"
        if match == "batch-norm":
            if not trained:
                behind = f"behind it is '{norm}', without trained statistics" if norm else "there is none behind it"
                raise HeadstartError(
                    f"match='batch-norm' needs a trained batch norm that takes the output of {stem.layer.where};"
                    f" {behind}.",
                    remedy="Pass match='original', with reference= if you have data of the old kind.",
                )
            variance: Any = self._model.get_submodule(str(norm)).running_var
            return match, f"batch norm '{norm}'", variance.detach()
        if match == "unit":
            return match, "unit deviation", torch.ones(stem.layer.out_channels, device=stem.new.device)
        if self._originals:
            if stem.name not in self._originals:
                raise HeadstartError(f"{stem.layer.where} is not run on the reference, so it has no output to match.")
            return match, "the original layer on the reference", self._originals[stem.name].var
        return match, "the original layer on the same data", self._on_stand_ins(stem, args, kwargs).var

    def _trained(self, norm: str, channels: int) -> bool:
        module: Any = self._model.get_submodule(norm)
        mean, var = (getattr(module, name, None) for name in ("running_mean", "running_var"))
        has = isinstance(mean, Tensor) and isinstance(var, Tensor) and len(var) == channels
        return has and norm not in self._fresh and not never_run(module)

    def _on_stand_ins(self, stem: Stem, args: Any, kwargs: Any) -> Moments:
        """Run the original layer on the new data, each old channel fed the new one that comes closest."""
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
        """A layer that standardizes its weight has the scale it has."""
        what = (
            f"Rescaling the weight of {stem.layer.where} does not rescale its output (weight standardization,"
            f" for instance), which has a deviation of {response.before:.3g} instead of {response.wanted:.3g}"
        )
        if self._match != "auto":
            raise WriteError(f"{what}.", remedy="Pass match='response' to leave it.")
        self.findings.append(f"{what}; it was left.")

    def _recentre(self, norm: str, mean: Tensor) -> None:
        buffer: Any = self._model.get_submodule(norm).running_mean
        buffer.copy_(mean)
        self.means.append((norm, buffer, buffer.clone()))


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
