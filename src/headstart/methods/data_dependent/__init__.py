"""Krähenbühl, Doersch, Donahue and Darrell 2016: fills, within-layer normalization, balance, calibration, the recipes.

Imports what every method may; other methods may import it.
"""
