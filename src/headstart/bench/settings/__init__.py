"""The settings of an experiment: options of the command line, and keys of a file.

Imports runs and what lies below. Papers and the command line may import it.
"""
