"""Small real images that need no download."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def tiles() -> Tensor:
    """256 colour images of 3×16×16 with pixels in [0, 1]: pieces of the two photographs in scikit-learn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own deprecations
        from sklearn.datasets import load_sample_images

        photos = load_sample_images().images
    pieces = [torch.from_numpy(p.copy()).permute(2, 0, 1).unfold(1, 16, 16).unfold(2, 16, 16) for p in photos]
    every = torch.cat([p.permute(1, 2, 0, 3, 4).flatten(0, 1) for p in pieces])
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:256]].float() / 255


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """256 handwritten digits of 1×8×8 with pixels in [0, 1], from scikit-learn."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images[:256]).float().unsqueeze(1) / 16
