"""Checkpoints: what the state of a run is, how it is saved, found and loaded."""

from esper.tolaria.checkpoint.discovery import VerifiedCheckpoint, find_and_load, find_checkpoint
from esper.tolaria.checkpoint.folder import checkpoint_folder
from esper.tolaria.checkpoint.format import Checkpoint, load_checkpoint, save_checkpoint
from esper.tolaria.checkpoint.registry import Generators, StateRegistry
from esper.tolaria.optimization.optimizer_state import load_named_state, named_state

__all__ = [
    "Checkpoint",
    "Generators",
    "StateRegistry",
    "VerifiedCheckpoint",
    "checkpoint_folder",
    "find_and_load",
    "find_checkpoint",
    "load_checkpoint",
    "load_named_state",
    "named_state",
    "save_checkpoint",
]
