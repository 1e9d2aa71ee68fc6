"""The documentation site builds without a warning; run where the extra `docs` is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(find_spec("mkdocstrings") is None, reason="needs scripts/setup docs")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "api" / "esper" / "index.html").read_text()
    assert "run_training" in page and "TolariaService" in page
    assert "weight_decay" in (tmp_path / "configuration" / "index.html").read_text()
