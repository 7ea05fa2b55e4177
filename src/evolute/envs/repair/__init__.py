"""Repositories with a planted bug, to be found and mended through tools."""

from evolute.envs.repair.task import RepairTask, repair_task

__all__ = ["RepairTask", "repair_task"]
