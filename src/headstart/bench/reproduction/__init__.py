"""The papers' comparisons run again, at three scales, with what was published beside what is measured."""

from headstart.bench.reproduction.files import available, fetch
from headstart.bench.reproduction.page import Reproduction, markdown
from headstart.bench.reproduction.plan import PAPERS, Comparison, plan
from headstart.bench.reproduction.rows import CAVEAT, Outcome, Row, Side
from headstart.bench.reproduction.scales import SCALES

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
