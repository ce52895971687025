"""Sparse data are made dense, within a memory limit: statistics and patches need dense tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart.errors import DataError

MEMORY_LIMIT = 512  # by default; MB (2**20 bytes) that one sparse tensor may take once it is dense


def is_sparse(tensor: Tensor) -> bool:
    """Whether a tensor is in one of torch's sparse layouts (COO, CSR, CSC, BSR, BSC)."""
    return tensor.layout is not torch.strided


def dense(tensor: Tensor, memory_limit: int = MEMORY_LIMIT, samples: int | None = None) -> Tensor:
    """A sparse tensor as a dense one; a dense one is returned as it is.

    Args:
        tensor: A tensor of any layout.
        memory_limit: MB that it may take.
        samples: The number of such tensors that become one batch, to which the limit applies.

    Raises:
        DataError: It would need more memory.

    Example:
        >>> dense(torch.eye(2).to_sparse())
        tensor([[1., 0.],
                [0., 1.]])
    """
    if not is_sparse(tensor):
        return tensor
    shape = tuple(tensor.shape) if samples is None else (samples, *tensor.shape)
    size = math.prod(shape) * tensor.element_size() / 2**20
    if size > memory_limit:
        raise DataError(
            f"The batch holds a sparse tensor of shape {shape}, which takes {size:,.0f} MB once dense;"
            f" the limit is {memory_limit} MB.",
            remedy="Pass fewer samples (samples=) or a larger memory_limit=, or reduce them with get_inputs=.",
        )
    return tensor.to_dense()


def rows(tensor: Tensor, which: Tensor | slice) -> Tensor:
    """Some rows of a tensor; they stay sparse if the tensor is sparse."""
    if not is_sparse(tensor):
        return tensor[which]
    index = torch.arange(len(tensor))[which] if isinstance(which, slice) else which
    coo = tensor if tensor.layout is torch.sparse_coo else tensor.to_sparse_coo()
    return coo.index_select(0, index.to(coo.device))


def holds_sparse(value: Any) -> bool:
    """Whether nested tuples, lists and dicts hold a sparse tensor.

    Example:
        >>> holds_sparse({"x": [torch.eye(2).to_sparse()]}), holds_sparse((torch.eye(2), 1))
        (True, False)
    """
    if isinstance(value, Tensor):
        return is_sparse(value)
    if isinstance(value, dict):
        return any(map(holds_sparse, value.values()))
    return isinstance(value, (tuple, list)) and not isinstance(value, np.ndarray) and any(map(holds_sparse, value))
