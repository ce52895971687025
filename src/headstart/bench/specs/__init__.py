"""Names with options, settings as fields of dataclasses, and functions in a user's file.

Imports the grammar of specs and the ground alone. Everything in the benchmark and the command line may import it.
"""
