"""The public place of the search over learning rates and options."""

from headstart.bench.runs.search import Search as Search
from headstart.bench.runs.search import search as search
