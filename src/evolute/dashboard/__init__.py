"""What people look at: the report of a run, and the timeline of a trace."""

from evolute.dashboard.report import write_report
from evolute.dashboard.timeline import write_timeline

__all__ = ["write_report", "write_timeline"]
