"""Broken builds for R5: damage that is not noticed, or not met in the right way."""

from __future__ import annotations

from contextlib import AbstractContextManager

from faults.harness.firing import broken

from esper.core.manifest import read_manifest
from esper.tolaria.state import checkpoint


def hashes_unchecked() -> AbstractContextManager[None]:
    """The manifest is read, and believed."""
    return broken(checkpoint, "verify_folder", read_manifest)
