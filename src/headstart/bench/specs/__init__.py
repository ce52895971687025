"""Names with options, and functions in a user's file.

Imports the ground alone. Everything in the benchmark and the command line may import it.
"""
