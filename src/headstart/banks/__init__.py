"""Filter banks: clusters of the filters of trained networks, which new networks start from."""

from headstart.banks.bank import FilterBank
from headstart.banks.entry import Entry

__all__ = ["Entry", "FilterBank"]
