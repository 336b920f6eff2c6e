"""The report: one self-contained HTML file for a run or a comparison, and the pictures in it."""

from manykin.report.html import write_report

__all__ = ["write_report"]
