"""The loop of a training run: who plays when, what is trained on, and what is written down."""

from evolute.train.control.groups import Batch, Group, Row
from evolute.train.control.parts import Parts
from evolute.train.control.records import StepReport
from evolute.train.control.run import Controller
from evolute.train.control.watchdog import Waits

__all__ = ["Batch", "Controller", "Group", "Parts", "Row", "StepReport", "Waits"]
