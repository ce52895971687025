"""Filter banks: clusters of the filters of trained networks, from which new networks start.

Imports `model` and what lies below it. The engine, the methods and everything above may import it.
"""

from headstart.banks.bank import FilterBank
from headstart.banks.elbow import Elbow, Tried, elbow
from headstart.banks.entry import Entry
from headstart.banks.storage import shipped

__all__ = ["Elbow", "Entry", "FilterBank", "Tried", "elbow", "shipped"]
