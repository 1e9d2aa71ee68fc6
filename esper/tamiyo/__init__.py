"""Tamiyo: policies that decide where, when and with what a network grows. Loads without torch."""

from esper.tamiyo.base import Policy
from esper.tamiyo.heuristic import HeuristicPolicy
from esper.tamiyo.learned import LearnedPolicy
from esper.tamiyo.pruning import Judge
from esper.tamiyo.random import RandomPolicy
from esper.tamiyo.scheduled import PlannedSeed, ScheduledPolicy

__all__ = [
    "HeuristicPolicy",
    "Judge",
    "LearnedPolicy",
    "PlannedSeed",
    "Policy",
    "RandomPolicy",
    "ScheduledPolicy",
]
