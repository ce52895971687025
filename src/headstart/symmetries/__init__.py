"""Changes that keep the function: scales, folded batch norms, permuted channels, aligned networks.

Imports the engine and what lies below it. The methods and everything above may import it.
"""
