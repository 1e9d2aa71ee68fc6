"""Broken builds for R8: a reader that a hostile checkpoint can harm."""

from __future__ import annotations

import io
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from faults.harness import hostile
from faults.harness.firing import broken
from safetensors import SafetensorError
from safetensors.torch import load_file

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import Checkpoint, load_checkpoint


def pickles_read() -> AbstractContextManager[None]:
    """It reads whatever it is given: as tensors, else as a pickle."""
    return broken(hostile, "meet", _trusting)


def _trusting(path: str, way: str) -> None:
    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            load_file(file)
        except (SafetensorError, OSError):
            torch.load(io.BytesIO(file.read_bytes()), weights_only=False)


def slow_refusal() -> AbstractContextManager[None]:
    """It takes longer to refuse a checkpoint than a forger should be able to make it."""

    def late(path: Path) -> Checkpoint:
        time.sleep(hostile.LIMIT_S + 0.2)
        return load_checkpoint(path)

    return broken(hostile, "load_checkpoint", late)


def large_refusal() -> AbstractContextManager[None]:
    """It takes more memory than a small file should be able to make it take."""

    def greedy(path: Path) -> Checkpoint:
        held = bytearray(b"x") * (hostile.LIMIT_BYTES + (20 << 20))
        assert held
        return load_checkpoint(path)

    return broken(hostile, "load_checkpoint", greedy)


def refusal_without_reason() -> AbstractContextManager[None]:
    """It refuses, and does not say why."""

    def curt(path: Path) -> Checkpoint:
        raise CheckpointError("the checkpoint cannot be used")

    return broken(hostile, "load_checkpoint", curt)


def error_not_expected() -> AbstractContextManager[None]:
    """The error is not one of Esper's, so that it is not caught."""

    def wild(path: Path) -> Checkpoint:
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            raise KeyError(str(error)) from error

    return broken(hostile, "load_checkpoint", wild)
