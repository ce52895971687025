"""Moments, clustering and principal directions of plain tensors. Nothing here knows models.

Imports nothing of the package but the ground. Every room above may import it.
"""
