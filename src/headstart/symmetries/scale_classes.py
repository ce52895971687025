"""What a trace of scales finds: the scale class of every layer's inputs and outputs, and of what norms take."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass
class LayerClasses:
    """A weight layer in the flow of scales.

    Attributes:
        inputs: The class that each input channel comes in, ``(in_channels,)``; ``ANY`` where it is always zero.
        outputs: The class of each output channel, ``(out_channels,)``; all the same unless channels were traced.
    """

    inputs: Integers
    outputs: Integers

    @property
    def single(self) -> bool:
        """Whether all inputs are of one class, and all outputs."""
        return all(bool((labels == labels[0]).all()) for labels in (self.inputs, self.outputs))


@dataclass
class ScaleFlow:
    """What a trace found.

    Attributes:
        uses: By layer name, in execution order.
        norms: Batch norms that take a class and have running statistics: by name, the class of each channel.
        normed: Classes that a normalization takes, which undoes their scale up to its epsilon.
        almost: Classes that pass through an activation that is not homogeneous, such as GELU.
        reasons: By layer name, what fixes the scale of its output.
    """

    uses: dict[str, LayerClasses] = field(default_factory=dict)
    norms: dict[str, Integers] = field(default_factory=dict)
    normed: set[int] = field(default_factory=set)
    almost: set[int] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
