"""The public place of the search over learning rates and options."""

from headstart.bench.runs.search import Search, search

__all__ = ["Search", "search"]
