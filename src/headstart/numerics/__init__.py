"""Moments, clustering and principal directions of plain tensors; knows no model.

Imports nothing of the package but the ground. Every room above may import it.
"""
