"""Auto: the default, which never does more than the evidence supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.method import Method
from headstart.methods.data_dependent import WithinLayer
from headstart.plan import Plan
from headstart.registry import register
from headstart.walk import Visit
from headstart.weights import Layer


@register(
    "auto",
    summary="the framework's start, normalized within the layers that no normalization follows",
    reference="within-layer normalization: Krähenbühl et al. 2016",
    scope="all layers",
    needs_data=True,
    cost="one forward pass of the batch",
)
@dataclass(frozen=True)
class Auto(Method):
    """The default of ``headstart.initialize``.

    Keeps every weight's direction. Hidden layers that no normalization follows get outputs of mean 0 and
    deviation 1 per channel, so that signals survive any depth; layers before a normalization, whose scale
    it sets anyway, and output layers, whose scale sets the first loss, stay as they are.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 5))
        >>> hs.initialize(net, torch.randn(64, 20)).changed
        ['0']
    """

    @property
    def recipe(self) -> WithinLayer:
        """What it runs."""
        return WithinLayer(fill="keep", output_layer="keep")

    def select(self, layers: Sequence[Layer], plan: Plan) -> Sequence[Layer]:
        """Hidden layers without a normalization behind them."""
        return self.recipe.select(layers, plan)

    def after(self, visit: Visit) -> None:
        """Normalize."""
        self.recipe.after(visit)
