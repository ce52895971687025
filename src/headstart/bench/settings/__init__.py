"""The settings of an experiment: options of the command line, keys of a file.

Imports runs and what lies below. Papers and the command line may import it.
"""
