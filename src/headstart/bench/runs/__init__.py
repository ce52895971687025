"""Experiments: which trials there are, the search, the forecast, the run.

Imports trials, store and what lies below. Analysis, settings and everything above may import it.
"""
