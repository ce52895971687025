"""A user's model as this package sees it: layers and their weights, inputs, trace, selection, forward passes, checkpoints, the transaction.

Imports results, numerics and the ground; every room above may import it.
"""
