"""The result of a trace of scales: the scale classes of every layer's inputs and outputs, and of norms' inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass
class LayerClasses:
    """A weight layer in the flow of scales.

    Attributes:
        inputs: The class of each input channel, ``(in_channels,)``; ``ANY`` if it is always zero.
        outputs: The class of each output channel, ``(out_channels,)``; all equal unless channels were traced.
    """

    inputs: Integers
    outputs: Integers

    @property
    def single(self) -> bool:
        """Whether all inputs have one class, and all outputs too."""
        return all(bool((labels == labels[0]).all()) for labels in (self.inputs, self.outputs))


@dataclass
class ScaleFlow:
    """The result of a trace.

    Attributes:
        uses: Layer name -> its classes, in execution order.
        norms: Name of a batch norm with running statistics -> the class of each of its channels.
        normed: Classes that go into a normalization, which removes their scale up to its epsilon.
        almost: Classes that go through an activation that is not homogeneous, such as GELU.
        reasons: Layer name -> what fixes the scale of its output.
    """

    uses: dict[str, LayerClasses] = field(default_factory=dict)
    norms: dict[str, Integers] = field(default_factory=dict)
    normed: set[int] = field(default_factory=set)
    almost: set[int] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
