"""Tamiyo: the policies that decide where, when and with what a network grows.

A policy gets a `SystemStatePacket` and returns `AdaptationCommand`s; see `Policy`. Loads without torch.
"""

from esper.tamiyo.base import Policy
from esper.tamiyo.heuristic import HeuristicPolicy
from esper.tamiyo.learned import LearnedPolicy
from esper.tamiyo.pruning import PruningRule
from esper.tamiyo.random import RandomPolicy
from esper.tamiyo.scheduled import PlannedSeed, ScheduledPolicy

__all__ = [
    "HeuristicPolicy",
    "LearnedPolicy",
    "PlannedSeed",
    "Policy",
    "PruningRule",
    "RandomPolicy",
    "ScheduledPolicy",
]
