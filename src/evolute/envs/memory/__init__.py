"""Questions to documents that are longer than a context."""

from evolute.envs.memory.task import MemoryTask, memory_task

__all__ = ["MemoryTask", "memory_task"]
