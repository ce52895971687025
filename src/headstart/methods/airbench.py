"""Airbench: a whitening stem, followed by convolutions that first pass their input through (Jordan 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headstart.engine.method import Method
from headstart.engine.registry import register
from headstart.engine.visit import Visit
from headstart.methods.baselines import Dirac
from headstart.methods.shared.spatial import is_depthwise, spatial_convolutions
from headstart.methods.whitening import Whitening
from headstart.model.report_builder import ReportBuilder
from headstart.model.trace import ModelTrace
from headstart.model.weights import Layer

BEHIND = Dirac()


@register(
    "airbench",
    summary="whitening first convolution; the first filters of each later one pass their input channels through",
    reference="Jordan 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU",
    scope="convolutions",
    needs_data=True,
    cost="that of whitening: the covariance of up to 262,144 patches and one eigendecomposition",
    presets=("paper",),
    deviations=(
        "The stem's filters have the layer's own size; the published ones are divided by sqrt(eigenvalue + eps)"
        " (preset airbench:paper).",
        "The stem stays trainable, and has the kernel that the model gives it; airbench freezes its 2×2 kernels.",
        "The other parts of the recipe (scale of the head, learning rates of biases, augmentation) belong to training.",
    ),
)
@dataclass(frozen=True)
class Airbench(Method):
    """The start of the CIFAR-10 speed records: a whitening stem, then a partial identity in every convolution.

    The idea: the stem passes on decorrelated patches with both signs, and the later convolutions first pass them
    through, so that gradients reach every layer from the first step. Other filters keep their random values.
    In the authors' ablation, 94 % takes 35 epochs; whitening reduces that to 21, and the identity to 18.

    1×1 convolutions, depthwise ones (whose filters would all be identities), transposed ones and linear
    layers are left alone.

    Args:
        scale: The scale of the stem, as in ``whitening``: ``"match"``, ``"whiten"`` or a number.

    Raises:
        HeadstartError: There is no convolution, images are smaller than the kernel, or all patches are zero.

    Example:
        >>> import torch, headstart as hs
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 24, 3), torch.nn.ReLU(), torch.nn.Conv2d(24, 64, 3))
        >>> _ = hs.initialize(net, torch.randn(64, 3, 12, 12), "airbench")
        >>> torch.equal(net[2].weight[:24, :, 1, 1], torch.eye(24))
        True
    """

    scale: float | str = "match"

    def __post_init__(self) -> None:
        self._stem()  # checks the scale

    @classmethod
    def paper(cls, **options: Any) -> Airbench:
        """The published form: the stem's filters divided by ``sqrt(eigenvalue + 5e-4)``."""
        return cls(**{"scale": "whiten", **options})

    def _stem(self) -> Whitening:
        return Whitening(scale=self.scale)

    def identity(self) -> str:
        """The options, with the revisions of the methods that it uses."""
        parts = self._stem().key(), BEHIND.key()
        return repr(self) if parts == (repr(self._stem()), repr(BEHIND)) else f"Airbench({', '.join(parts)})"

    def select(self, layers: Sequence[Layer], trace: ModelTrace, report: ReportBuilder) -> Sequence[Layer]:
        """The first convolution, and every later one of more than one tap."""
        stem, chosen = trace.first_convolution, []
        for layer in spatial_convolutions(self, layers, trace, report):
            if layer is not stem and (is_depthwise(layer) or layer.kind != "conv"):
                report.skip(
                    layer, "depthwise: every filter would be an identity" if is_depthwise(layer) else "transposed"
                )
            else:
                chosen.append(layer)
        if stem not in chosen:
            report.add_finding("airbench: the first convolution was not selected, so nothing is whitened.")
        return chosen

    def before(self, visit: Visit) -> None:
        """Whiten the first convolution, write identities into the others."""
        if visit.layer is visit.trace.first_convolution:
            self._stem().before(visit)
        else:
            BEHIND.before(visit)
