"""The other end of the wire: a model behind HTTP as a `Backend`."""

from evolute.server.client.backend import HttpBackend

__all__ = ["HttpBackend"]
