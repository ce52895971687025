"""From stored trials to comparisons and verdicts.

Imports runs, statistics and store. Report and papers may import it.
"""
