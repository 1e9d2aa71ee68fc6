"""Broken builds for R8: a reader that a hostile checkpoint can harm."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from faults.harness import hostile
from faults.harness.firing import broken
from safetensors import SafetensorError
from safetensors.torch import load_file


def pickles_read() -> AbstractContextManager[None]:
    """It reads whatever it is given: as tensors, else as a pickle."""
    return broken(hostile, "meet", _trusting)


def _trusting(path: str, way: str) -> None:
    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            load_file(file)
        except (SafetensorError, OSError):
            torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
