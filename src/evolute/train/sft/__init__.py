"""Supervised fine-tuning: rows -> tokens and masks -> packed updates, resumable to the bit."""

from evolute.train.sft.controller import SftController, SftReport
from evolute.train.sft.data import read
from evolute.train.sft.settings import SftConfig
from evolute.train.sft.trainer import SftTrainer

__all__ = ["SftConfig", "SftController", "SftReport", "SftTrainer", "read"]
