"""Data-dependent initialization (Krähenbühl et al. 2016): fill, normalize within layers, balance between layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.engine.method import OnComplex
from headstart.engine.model_view import ModelView
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.measure.gradients import LossFunction
from headstart.methods.data_dependent.balance import Balance
from headstart.methods.data_dependent.within_layer import MANY, WithinLayer
from headstart.methods.shared.normalization import reason_to_leave
from headstart.model.parts import Part
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer


@register(
    "data-dependent",
    summary="layers filled, normalized on the data, and balanced so that all learn at one rate",
    reference="Krähenbühl, Doersch, Donahue and Darrell 2016, Data-dependent Initializations of CNNs",
    scope="all layers",
    needs_data=True,
    cost="that of within-layer and of balance: a forward pass of the batch, a forward and a backward pass of up to 32",
    presets=("paper", "kmeans"),
    deviations=("Those of within-layer and of balance.",),
    depends_on_other_layers=True,
    # 2: balance squares gradients sample by sample; 3: moments in one pass; 4, 5, 6: balance; 5: fills; 7: attention's
    # projections are filled and normalized, too; 8: wide layers' directions by a search
    revision=8,
)
@dataclass(frozen=True)
class DataDependent(WithinLayer):
    """Fill every layer, bring its channels to deviation 1 on the data, then balance the layers.

    The idea: if every layer sees inputs at the same scale and learns at the same relative rate, deep networks without
    normalization can train. Layers that a normalization follows keep their weights and only get the common rate.
    It is the same as ``within-layer+balance``.

    Args:
        loss_fn: As for `Balance`. All other options are those of `WithinLayer`, but ``layers`` must be None.

    Raises:
        HeadstartError: As `WithinLayer` and `Balance`.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
        >>> hs.initialize(net, torch.randn(64, 20), hs.DataDependent()).changed
        ['0', '2']
    """

    loss_fn: LossFunction | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.layers is None, f"layers={self.layers!r} is not possible", "Pass within-layer:layers=N+balance")

    @classmethod
    def paper(cls, **options: Any) -> DataDependent:
        """The authors' command line: Gaussian fill, every layer, beta 0.1, no centring of weights."""
        return cls(**{"beta": 0.1, "before_norm": "normalize", "center": False, "patches": MANY, **options})

    @classmethod
    def kmeans(cls, **options: Any) -> DataDependent:
        """The paper's best: its command line with filters from k-means on the layers' inputs."""
        return cls.paper(**{"fill": "kmeans", **options})

    def on_complex(self) -> OnComplex:
        """Balance works on real weights only."""
        return "refused"

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """All layers: those that are not filled are still balanced."""
        super().select(layers, trace, report)  # says which are not filled
        return layers

    def before(self, visit: Visit) -> None:
        """Fill the layer."""
        if not self._leaves(visit):
            super().before(visit)

    def after(self, visit: Visit) -> None:
        """Normalize it."""
        if not self._leaves(visit):
            super().after(visit)

    def finish(self, view: ModelView) -> None:
        """Balance all layers."""
        whole = [layer for layer in view.layers if not isinstance(layer, Part)]  # whose scales can be followed
        Balance(loss_fn=self.loss_fn).finish(replace(view, layers=whole))

    def _leaves(self, visit: Visit) -> bool:
        return bool(reason_to_leave(visit.layer, visit.trace, self.before_norm, self.output_layer))


def KrahenbuhlKMeans(**options: Any) -> DataDependent:  # noqa: N802 - the name that scripts know
    """The former name of the paper's best form, ``DataDependent.kmeans``."""
    return DataDependent.kmeans(**options)
