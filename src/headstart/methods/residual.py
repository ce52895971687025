"""Residual branches that start at zero, or small: zero gains, Fixup's scales, and GPT-2's factor by depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from headstart.engine.method import Method
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.measure.branches import Branch, find_branches
from headstart.model.weights import Layer, look


@register(
    "residual",
    summary="residual branches start at zero (last gain or weight), with Fixup's scales, or scaled by the number of"
    " branches",
    reference="Goyal et al. 2017 (zero gain); Zhang, Dauphin and Ma 2019, Fixup; Radford et al. 2019, GPT-2 (depth)",
    scope="all layers",
    needs_data=True,
    cost="one forward pass of the batch, and one of two samples that records every operation",
    presets=("fixup", "depth"),
    deviations=(
        "Branches are found from the sums in the forward pass, not from the names of blocks.",
        "form='zero' sets a layer scale to zero if a branch ends in one. It leaves a branch that ends in an"
        " activation: behind a ReLU of zero nothing would learn.",
        "form='fixup' scales the present weights and adds no scalar parameters; put 'kaiming' before it for the"
        " published form.",
        "form='depth' divides by the root of the number of branches, which is √(2L) for L blocks of two branches.",
    ),
    depends_on_other_layers=True,  # how many branches there are decides for each
    revision=2,  # 2: torch's attention and linear layers with inputs first are seen in branches
)
@dataclass(frozen=True)
class Residual(Method):
    """Make every residual block start near the identity.

    The idea: in ``x + f(x)`` the variance grows with every block, and in a deep network without norms it explodes. If
    every ``f`` starts at zero, a signal passes unchanged through any depth, and each branch grows as it learns.

    Args:
        form: ``"zero"`` (default): the gain of a branch's last norm (or its layer scale) is zero; without one, the
            weight and bias of its last layer are. ``"fixup"``, for networks without norms: in ``L`` branches of ``m``
            layers each, the last layer is zero and the others are scaled by ``L^(-1/(2m-2))``; output layers are
            zero. ``"depth"``: the end of every branch is scaled by ``1/√L``.

    Raises:
        HeadstartError: The model cannot be run.

    Example:
        >>> import torch, headstart as hs
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
        ...     def forward(self, x):
        ...         return x + self.down(self.up(x).relu())
        >>> net, x = torch.nn.Sequential(Block(), Block()), torch.randn(32, 8)
        >>> hs.initialize(net, x, "residual:form=zero").changed
        ['0.down', '1.down']
        >>> torch.equal(net(x), x)
        True
    """

    form: str = "zero"

    writes_parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("form", "zero", "fixup", "depth")

    @classmethod
    def fixup(cls) -> Residual:
        """Fixup's scales without its extra parameters, for networks without norms."""
        return cls(form="fixup")

    @classmethod
    def depth(cls) -> Residual:
        """GPT-2's factor on the end of every branch."""
        return cls(form="depth")

    def finish(self, view: ModelView) -> None:
        """Find the branches and write their ends."""
        assert view.batch is not None
        branches = find_branches(view.model, view.batch)
        if not branches:
            view.report.add_finding(
                "residual: no residual branch was found: the model never adds a value to something computed from it."
            )
            return
        ends = [f"'{b.first}' to '{b.gain or b.last}'" for b in branches]
        view.report.add_finding(
            f"residual: {len(branches)} residual branches: {', '.join(ends[:3])}{' …' if len(ends) > 3 else ''}."
        )
        layers = {layer.name: layer for layer in view.layers}
        left: dict[str, list[str]] = {}
        for branch in branches:
            if reason := self._reason_to_leave(branch, layers):
                left.setdefault(reason, []).append(branch.last)
            elif self.form == "depth":
                self._scale_end(view, branch, layers, 1 / math.sqrt(len(branches)))
            elif self.form == "zero" and branch.gain:
                self._scale_gain(view, branch.gain, 0.0)
            else:
                self._scale_end(view, branch, layers, 0.0, gain=False)
            if self.form == "fixup" and branch.depth > 1:
                factor = len(branches) ** (-1 / (2 * branch.depth - 2))
                for name in branch.layers[:-1]:
                    if name in layers:
                        _scale(view, layers[name], factor)
        for reason, names in left.items():
            listed = ", ".join(f"'{name}'" for name in names[:5])
            view.report.add_finding(
                f"residual: {len(names)} branches, which end in {listed}{' …' if len(names) > 5 else ''}, were left:"
                f" {reason}."
            )
        if self.form == "fixup":
            for name in sorted(view.trace.outputs & layers.keys()):
                _scale(view, layers[name], 0.0)
            normed = sum(b.norms for b in branches)
            if normed:
                view.report.add_finding(
                    f"residual: norms run in {normed} of {len(branches)} branches and undo Fixup's scales before them;"
                    " use form='zero' for such networks."
                )

    def _reason_to_leave(self, branch: Branch, layers: dict[str, Layer]) -> str:
        if branch.last not in layers:
            return "its layer was not selected"
        if branch.problem and not (self.form == "depth" and branch.scales):
            return branch.problem + ("" if self.form == "depth" else ", which may never learn from a zero")
        return ""

    def _scale_end(
        self, view: ModelView, branch: Branch, layers: dict[str, Layer], factor: float, *, gain: bool = True
    ) -> None:
        if gain and branch.gain:
            self._scale_gain(view, branch.gain, factor)
        else:
            _scale(view, layers[branch.last], factor)

    def _scale_gain(self, view: ModelView, name: str, factor: float) -> None:
        """Scale a gain, and the norm's shift with it."""
        parameters = dict(view.model.named_parameters())
        for key in (name, f"{name.rpartition('.')[0]}.bias"):
            value = parameters.get(key)
            if value is None or (key != name and not name.endswith(".weight")) or not bool(value.any()):
                continue
            if value.requires_grad:
                view.write_tensor(key, value, value.detach() * factor if factor else torch.zeros_like(value))
            else:
                view.report.add_finding(f"residual: '{key}' is frozen and was left.")


def _scale(view: ModelView, layer: Layer, factor: float) -> None:
    if factor:
        one = torch.ones(layer.in_channels), torch.full((layer.out_channels,), factor)
        view.rescale(layer, *one)
        return
    bias = layer.bias
    view.write(layer, torch.zeros_like(look(layer)), None if bias is None else torch.zeros_like(bias))
