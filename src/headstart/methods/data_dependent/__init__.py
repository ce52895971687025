"""Data-dependent initializations (Krähenbühl, Doersch, Donahue and Darrell, 2016): a file for each part of the paper.

It imports what every method may import. Other methods may import it.
"""
