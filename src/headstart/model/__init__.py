"""The user's model: layers and weights, inputs, trace, selection, checkpoints, transaction.

Imports `results`, `numerics` and the ground. Every room above may import it.
"""
