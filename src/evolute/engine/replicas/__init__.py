"""Several engines behind one: who gets which request, and what is true of all of them."""

from evolute.engine.replicas.config import ROUTING_NAMES, ReplicaConfig
from evolute.engine.replicas.deficits import D2lpm
from evolute.engine.replicas.fleet import ReplicatedEngine
from evolute.engine.replicas.policies import (
    CacheAware,
    Candidate,
    Choice,
    LeastLoaded,
    RoundRobin,
    RoutingPolicy,
    Sticky,
)
from evolute.engine.replicas.prefixes import PrefixTree
from evolute.engine.replicas.router import Made, Router, Ticket, make_policy
from evolute.engine.replicas.totals import FleetStats, ReplicaStats

__all__ = [
    "ROUTING_NAMES",
    "CacheAware",
    "Candidate",
    "Choice",
    "D2lpm",
    "FleetStats",
    "LeastLoaded",
    "Made",
    "PrefixTree",
    "ReplicaConfig",
    "ReplicaStats",
    "ReplicatedEngine",
    "RoundRobin",
    "Router",
    "RoutingPolicy",
    "Sticky",
    "Ticket",
    "make_policy",
]
