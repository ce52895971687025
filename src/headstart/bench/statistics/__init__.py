"""Intervals, tests and verdicts from paired differences: pure functions.

Imports nothing else of the benchmark. Analysis, report and papers may import it.
"""
