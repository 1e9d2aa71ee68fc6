"""`checkpoint.resume_from_checkpoint`: which run is named if `auto` has no folder; see also test_resume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper.config import TolariaConfig
from esper.runs.unfinished import is_finished, newest_unfinished, which_run


def made(folder: Path, age_s: int, **options: object) -> Path:
    folder.mkdir(parents=True)
    TolariaConfig(**options).to_yaml(folder / "config.yaml")  # type: ignore[arg-type]
    os.utime(folder / "config.yaml", (1e9 - age_s,) * 2)
    return folder


def test_the_newest_of_runs_and_jobs_of_sweeps(tmp_path: Path) -> None:
    wanted = TolariaConfig().hash()
    assert newest_unfinished(tmp_path, wanted) is None
    old = made(tmp_path / "2026-01-01" / "a", 30)
    made(tmp_path / "2026-01-01" / "other", 5, seed=1)
    (tmp_path / "2026-01-01" / "torn").mkdir()
    (tmp_path / "2026-01-01" / "torn" / "config.yaml").write_text("{")
    assert newest_unfinished(tmp_path, wanted) == old
    job = made(tmp_path / "multirun" / "2026-01-01" / "b" / "0", 20, session_name="not hashed")
    assert newest_unfinished(tmp_path, wanted) == job
    assert f"run_dir={job}" in which_run(tmp_path, TolariaConfig())


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ('{"stopped_by": "early_stopping"}', True),
        ('{"stopped_by": "emergency"}', False),
        ("[]", False),
        ("{", False),
        (None, False),
    ],
)
def test_only_a_runs_own_end_is_its_end(tmp_path: Path, text: str | None, finished: bool) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    assert is_finished(tmp_path) is finished
