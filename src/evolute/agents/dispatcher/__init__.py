"""Many lifecycles at once, in bounded stages."""

from evolute.agents.bounded import StageTimeout
from evolute.agents.dispatcher.dispatcher import Dispatcher
from evolute.agents.dispatcher.lifecycle import End, Ending, Lifecycle, Stage, Times
from evolute.agents.dispatcher.settings import DispatchConfig

__all__ = [
    "DispatchConfig",
    "Dispatcher",
    "End",
    "Ending",
    "Lifecycle",
    "Stage",
    "StageTimeout",
    "Times",
]
