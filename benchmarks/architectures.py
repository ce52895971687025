"""Architectures of timm and torchvision: their names, how to build them small, and the images that they take."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
SIDES = (64, 96, 128, 160, 224)


def names() -> list[str]:
    """All architectures, as ``package/name``: a line each in ``architectures.txt``."""
    return Path(__file__).with_suffix(".txt").read_text().split()


def packages() -> Any:
    """Import torchvision and timm; beside a CPU-only torch two operators need a schema first."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
                del sys.modules[module]
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            importlib.import_module("torchvision")
        timm = importlib.import_module("timm")
    timm.keep = library  # the schemas live as long as this object
    return timm


def build(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """Build an architecture at its authors' start, and the smallest images that it takes."""
    package, _, model_name = name.partition("/")
    torch.manual_seed(0)
    channels, own, fixed = 3, 224, False
    if package == "timm":
        timm = importlib.import_module("timm")
        model = timm.create_model(model_name, num_classes=CLASSES)
        config = model.default_cfg if isinstance(model.default_cfg, dict) else vars(model.default_cfg)
        channels, own, _ = config.get("input_size", (3, 224, 224))
        fixed = bool(config.get("fixed_input_size"))
    else:
        models = importlib.import_module("torchvision.models")
        extra = {"aux_logits": False} if model_name == "googlenet" else {}
        model = models.get_model(model_name, weights=None, num_classes=CLASSES, **extra)
        fixed = model_name in ("vit_b_32", "maxvit_t")
    return model, _fitting(model, channels, own, fixed, batch)


def _fitting(model: nn.Module, channels: int, own: int, fixed: bool, batch: int) -> Tensor:
    """The smallest images that the model takes: from 64 pixels on, its own size last."""
    refused: Exception | None = None
    for side in [*(s for s in SIDES if s < own and not fixed), own]:
        x = images(batch, channels, side)
        try:
            with torch.no_grad():
                model.eval()(x[:2])
        except Exception as error:  # whatever a network raises at a size that it does not take
            refused = error
            continue
        return x if side <= 128 else x[: batch // 2]
    raise RuntimeError(f"no size of images runs: {refused}")


def images(batch: int, channels: int, side: int, seed: int = 0) -> Tensor:
    """Random fields with the long waves of photographs, mean 0 and deviation 1."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.zeros(batch, channels, side, side)
    for cells in (2, 4, 8, 16, 32):
        field = torch.randn(batch, channels, cells, cells, generator=draws)
        x += F.interpolate(field, (side, side), mode="bicubic") / cells**0.5
    return (x - x.mean()) / x.std()
