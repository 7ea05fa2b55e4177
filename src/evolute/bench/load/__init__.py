"""Load on a server over HTTP: plans, the generator, the accounting."""

from evolute.bench.load.drive import LoadRound, Record
from evolute.bench.load.figures import Slo
from evolute.bench.load.local import ServerProcess, own_server
from evolute.bench.load.plan import LoadPlan, plan
from evolute.bench.load.report import text
from evolute.bench.load.run import LoadOptions, LoadResult, load_test
from evolute.bench.load.target import Target

__all__ = [
    "LoadOptions",
    "LoadPlan",
    "LoadResult",
    "LoadRound",
    "Record",
    "ServerProcess",
    "Slo",
    "Target",
    "load_test",
    "own_server",
    "plan",
    "text",
]
