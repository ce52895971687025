"""The papers' comparisons: protocols, published figures, reproduction.

Imports everything else of the benchmark. The command line may import it.
"""
