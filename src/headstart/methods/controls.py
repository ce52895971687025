"""Controls: random filters of the same norms show how much of a method's effect comes from its scale alone.

With batch norm the effective step is lr / |w|^2, so a method that only changes norms can look like a better
start. A control keeps a method's norms and removes its structure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import parse, register
from headstart.engine.visit import Visit
from headstart.errors import HeadstartError
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer


@dataclass(frozen=True)
class _Control(Method, ABC):
    of: str = "prewarm"

    def __post_init__(self) -> None:
        methods = parse(self.of)
        ok = len(methods) == 1 and not isinstance(methods[0], _Control)
        self.check(ok, f"of={self.of!r} is not one plain method", "Name one, such as of=prewarm")
        ok = type(methods[0]).after is Method.after
        self.check(
            ok,
            f"of={self.of!r} rescales the weights that it fills",
            "Controls exist for methods that only fill weights",
        )
        treated = methods[0].info  # a control writes where its treatment writes, and from what it needs
        own = replace(type(self).info, scope=treated.scope, needs_data=treated.needs_data)
        object.__setattr__(self, "info", own)

    @property
    def treatment(self) -> Method:
        """The method that this is a control for."""
        return parse(self.of)[0]

    def identity(self) -> str:
        """The options, and the identity of the treatment."""
        plain, stands_for = repr(self.treatment), self.treatment.key()
        return repr(self) if stands_for == plain else f"{type(self).__name__}(of={stands_for})"

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The layers that the treatment writes."""
        return self.treatment.select(layers, trace, report)

    def start(self, view: ModelView) -> None:
        """Let the treatment write, if it writes before the walk."""
        self.treatment.start(view)

    def before(self, visit: Visit) -> None:
        """Let the treatment write, then replace the filters that it changed."""
        started = type(self.treatment).start is not Method.start
        before = visit.weight_before.clone() if started else visit.weight
        self.treatment.before(visit)
        after = visit.weight
        rows = (after != before).flatten(1).any(1)
        if visit.row.action == "skipped":  # the treatment left it, and said why
            return
        if not bool(rows.any()):
            raise HeadstartError(
                f"{self.info.name}: {self.of} changed no filter of {visit.layer.where}.",
                remedy="A control needs filters to replace: name another method as of=, or exclude the layer.",
            )
        after[rows] = self.replace(visit, before, after)[rows]
        visit.write(after)

    @abstractmethod
    def replace(self, visit: Visit, before: Tensor, after: Tensor) -> Tensor:
        """The filters of the control."""


def _norms(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))


@register(
    "matched-random",
    summary="control: random filters with exactly the norms that another method writes",
    reference="the scale-matched control that the sources lack",
    scope="first convolution",
    needs_data=True,
    cost="that of the method it controls",
)
@dataclass(frozen=True)
class MatchedRandom(_Control):
    """Gaussian filters in place of the treatment's filters, with the same norms.

    Args:
        of: The treatment, as a spec.

    Example:
        >>> import torch, headstart as hs
        >>> a, b = torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(1, 8, 3)
        >>> _ = b.load_state_dict(a.state_dict())
        >>> x = torch.rand(64, 1, 12, 12)
        >>> _ = hs.initialize(a, x, "prewarm"), hs.initialize(b, x, "matched-random:of=prewarm")
        >>> torch.allclose(a.weight.flatten(1).norm(dim=1), b.weight.flatten(1).norm(dim=1))
        True
    """

    def replace(self, visit: Visit, before: Tensor, after: Tensor) -> Tensor:
        """Random directions, the treatment's norms."""
        draw = visit.normal(*after.shape, purpose="control")
        return draw * (_norms(after) / _norms(draw))


@register(
    "zero-dc-random",
    summary="control: the layer's own random filters with their mean removed, at the same norm",
    reference="a control for the removed mean, which patch-based filters share",
    scope="first convolution",
    needs_data=True,
    cost="that of the method it controls",
)
@dataclass(frozen=True)
class ZeroDCRandom(_Control):
    """The layer's own filters with their mean removed, in place of the treatment's filters.

    Args:
        of: The treatment, as a spec; it decides which filters are replaced.
    """

    def replace(self, visit: Visit, before: Tensor, after: Tensor) -> Tensor:
        """Mean-free filters at their own norm."""
        mean = before.flatten(1).mean(1).reshape(-1, *[1] * (before.dim() - 1))
        centred = before - mean
        own, rest = _norms(before), _norms(centred)
        flat = rest <= 1e-6 * own  # nothing but mean
        if bool(flat.any()):
            visit.note(f"{int(flat.sum())} filters are constant and were kept")
        return torch.where(flat, before, centred * (own / rest.clamp_min(torch.finfo(before.dtype).tiny)))
