"""The papers' comparisons run again at three scales, with published beside measured results."""

from headstart.bench.papers.reproduction.files import available, fetch
from headstart.bench.papers.reproduction.page import Reproduction, markdown
from headstart.bench.papers.reproduction.plan import PAPERS, Comparison, plan
from headstart.bench.papers.reproduction.rows import CAVEAT, Outcome, Row, Side
from headstart.bench.papers.reproduction.scales import SCALES

__all__ = [
    "CAVEAT",
    "PAPERS",
    "SCALES",
    "Comparison",
    "Outcome",
    "Reproduction",
    "Row",
    "Side",
    "available",
    "fetch",
    "markdown",
    "plan",
]
