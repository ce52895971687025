"""The public place of the report's page."""

from headstart.bench.report.page import write_report

__all__ = ["write_report"]
