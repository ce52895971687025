"""Operations that are always positively homogeneous: looked up, not tested, if all inputs have one scale class.

``f(s x) = s f(x)`` for every ``s > 0`` follows from their definition, so they need not be run. A test
compares each of them with the trial that all other operations go through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from headstart.symmetries.operations import family

# Of one input, whatever the numbers beside it.
_OF_ONE = {
    *("relu", "leaky_relu", "abs", "neg", "mean", "sum", "amax", "amin"),
    *("max_pool", "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool"),
    *("adaptive_avg_pool", "adaptive_max_pool"),
    *("view", "reshape", "permute", "transpose", "t", "slice", "select", "expand", "clone", "contiguous"),
    *("squeeze", "unsqueeze", "alias", "detach", "narrow", "flip", "split", "split_with_sizes", "unbind"),
}
_JOINS = {"cat", "stack"}  # of inputs that may keep scales of their own
_SUMS = {"add", "sub", "maximum", "minimum"}  # of inputs that must have one scale
_SCALES = {"mul", "div"}  # by a number


def is_known(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], several: bool) -> bool:
    """Whether an operation passes on the single class of its inputs.

    Args:
        func: The operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        several: Whether its inputs have different classes, which a sum merges.

    Example:
        >>> import torch
        >>> x = torch.ones(3)
        >>> aten = torch.ops.aten
        >>> is_known(aten.relu.default, (x,), {}, False), is_known(aten.add.Tensor, (x, 1), {}, False)
        (True, False)
        >>> is_known(aten.sum.default, (x,), {"dtype": torch.int64}, False)
        False
    """
    name = family(func.overloadpacket.__name__)
    if "mode" in func._overloadname:  # a division that rounds
        return False
    if "dtype" in func._overloadname or kwargs.get("dtype") is not None:  # other bits, or rounded to whole numbers
        return False
    beside = args[1:2]
    if name in _OF_ONE or name in _JOINS:
        return not several
    if name in _SUMS:
        return bool(beside) and isinstance(beside[0], Tensor)
    number = beside[0] if beside else None
    return name in _SCALES and isinstance(number, (int, float)) and math.isfinite(number) and len(args) == 2
