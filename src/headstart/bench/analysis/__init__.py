"""Comparisons and verdicts from stored trials.

Imports runs, statistics and store. Report and papers may import it.
"""
