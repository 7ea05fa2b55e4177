"""Many adapters on one base model."""

from evolute.engine.adapters.table import AdapterInfo, AdapterTable

__all__ = ["AdapterInfo", "AdapterTable"]
