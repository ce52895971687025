"""What may change while the function stays: scales, folded batch norms, permuted channels, alignment of networks.

Imports the engine and what is below it; methods and everything above may import it.
"""
