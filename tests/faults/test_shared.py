from __future__ import annotations

from pathlib import Path

import pytest
from faults.harness.processes import on_growth
from faults.harness.shared import Shared


def test_a_folder_is_made_once_for_all_who_share_the_root(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        path.mkdir()
        made.append(path)

    assert Shared(tmp_path).folder("run", make) == Shared(tmp_path).folder("run", make) == tmp_path / "run"
    assert made == [tmp_path / "run"]


def test_a_folder_that_could_not_be_made_is_made_anew(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        Shared(tmp_path).folder("run", fail)
    run = Shared(tmp_path).folder("run", Path.mkdir)
    assert list(run.iterdir()) == []


def test_a_condition_is_asked_again_when_a_file_has_grown_or_was_cut(tmp_path: Path) -> None:
    asked: list[str] = []
    file = tmp_path / "events.jsonl"

    def condition() -> bool:
        asked.append(file.read_text() if file.exists() else "absent")
        return asked[-1] == "ab"

    grown = on_growth(condition, file)
    found = [grown(), grown()]
    for text in ("a", "a", "ab", "a"):
        file.write_text(text)
        found.append(grown())
    assert asked == ["absent", "a", "ab", "a"]
    assert found == [False, False, False, False, True, False]
