"""Names with options, settings as fields of dataclasses, and functions in a user's file.

Imports only the grammar of specs and the ground. Everything in the benchmark and the command line may import it.
"""
