"""A module of the user's own in an empty working folder, as `allowed_targets` is meant for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def write_module(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write `<folder>/<name>.py` and go there; path and loaded modules are put back after the test."""
    (folder / f"{name}.py").write_text(source)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, name, raising=False)
