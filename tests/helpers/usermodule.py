"""A user's module in an empty working folder, for `allowed_targets`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def write_module(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write `<folder>/<name>.py` and change to the folder; path and modules are restored after the test."""
    (folder / f"{name}.py").write_text(source)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, name, raising=False)
