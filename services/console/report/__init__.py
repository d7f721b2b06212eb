"""The report of a run: figures, tables and the CSV behind each, from the archive alone."""

from services.console.report.page import write_report

__all__ = ["write_report"]
