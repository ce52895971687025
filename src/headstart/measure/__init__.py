"""Measurements of layers in one pass: patches, probes, gradients.

Imports `model` and what lies below it. The engine, the methods and everything above may import it.
"""

from headstart.measure.layer_patches import LayerPatches

__all__ = ["LayerPatches"]
