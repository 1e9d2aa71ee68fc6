from __future__ import annotations

from pathlib import Path

import pytest

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import save_checkpoint
from esper.tolaria.checkpoint.index import is_checkpoint, list_checkpoints, read_state


def test_order_is_that_of_the_saves(tmp_path: Path) -> None:
    for name in ("b", "c", "a", "b"):
        save_checkpoint(tmp_path, name, tensors={}, state={})
    entries, problems = list_checkpoints(tmp_path)
    assert [(entry.path.name, entry.sequence) for entry in entries] == [("c", 2), ("a", 3), ("b", 4)]
    assert problems == []


def test_what_cannot_be_read_is_named_and_does_not_stop_a_save(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "a", tensors={}, state={})
    (tmp_path / "a" / "state.json").write_bytes(b"{")
    (tmp_path / "mine").mkdir()
    entries, problems = list_checkpoints(tmp_path)
    assert entries == []
    (sentence,) = problems
    assert "a/state.json is not JSON" in sentence
    (tmp_path / "a" / "state.json").unlink()
    assert "a: state.json is missing" in list_checkpoints(tmp_path)[1][0]
    save_checkpoint(tmp_path, "b", tensors={}, state={"x": 1})
    assert read_state(tmp_path / "b") == {
        "format": "esper-checkpoint",
        "version": 1,
        "sequence": 1,
        "state": {"x": 1},
    }


def test_what_is_meant_to_be_a_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "a", tensors={}, state={})
    for name in ("manifest.json", "state.json"):
        assert is_checkpoint(path)
        (path / name).unlink()
    assert not is_checkpoint(path)


def test_a_folder_that_cannot_be_searched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent cannot be searched"):
        list_checkpoints(tmp_path / "absent")
