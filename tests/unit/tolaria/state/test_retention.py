from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointError
from esper.tolaria.state import find_checkpoint, save_checkpoint
from esper.tolaria.state.retention import prune


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(saves=st.lists(st.sampled_from("abcde"), min_size=1, max_size=8), keep=st.integers(1, 4))
def test_the_last_saves_stay(tmp_path: Path, saves: list[str], keep: int) -> None:
    """Pain 6: never more than `keep`, always the newest; a name that is saved again is new again."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    expected: list[str] = []
    for name in saves:
        save_checkpoint(folder, name, tensors={}, state={})
        expected = [other for other in expected if other != name] + [name]
        removed = prune(folder, keep=keep)
        assert removed == expected[:-keep]
        expected = expected[-keep:]
        assert names(folder) == set(expected)
        assert find_checkpoint(folder).path.name == name


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    for name in "abc":
        save_checkpoint(tmp_path, name, tensors={}, state={})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.csv").write_text("1")
    (tmp_path / "a" / "state.json").write_text("{}")
    (tmp_path / "latest").symlink_to(tmp_path / "b")
    assert prune(tmp_path, keep=1) == ["b"]
    assert names(tmp_path) == {"a", "c", "mine", "latest"}


def test_nothing_to_search_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent"):
        prune(tmp_path / "absent", keep=1)
