"""A training service that speaks the Tinker API: clients own the loop, the server the weights."""

from evolute.train.tinker.routes import routers
from evolute.train.tinker.service import Service
from evolute.train.tinker.settings import ServiceConfig

__all__ = ["Service", "ServiceConfig", "routers"]
