"""From paired differences to intervals, tests and verdicts: pure functions.

Imports nothing else of the benchmark. Analysis, report and papers may import it.
"""
