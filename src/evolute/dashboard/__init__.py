"""What people look at: the report of a run."""

from evolute.dashboard.report import write_report

__all__ = ["write_report"]
