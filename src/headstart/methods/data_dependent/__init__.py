"""Data-dependent initializations (Krähenbühl, Doersch, Donahue and Darrell, 2016): a file for each part of the paper.

Imports what every method may. Other methods may import it.
"""
