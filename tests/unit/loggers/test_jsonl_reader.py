from __future__ import annotations

import json
from pathlib import Path

import pytest

from esper.errors import RecordError
from esper.loggers.jsonl_reader import read_jsonl, read_param_counts, read_stage_changes


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert list(read_jsonl(path)) == [{"epoch": 1}, {"epoch": 2}]


def test_a_missing_file_holds_nothing(tmp_path: Path) -> None:
    assert list(read_jsonl(tmp_path / "none.jsonl")) == []


@pytest.mark.parametrize(
    ("line", "what"), [("{no", "not JSON"), ("[1]", "a list; each line should be an object")]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"ok": 1}\n' + line + "\n")
    with pytest.raises(RecordError, match="line 2: ") as caught:
        list(read_jsonl(path))
    assert what in str(caught.value)


def test_seed_moves_are_the_stage_events_only(tmp_path: Path) -> None:
    move = (
        '{"name": "seed_stage", "step": 7, "epoch": 1, "data": {"layer": "f.1", "seed": 0, "to": "culled"}}'
    )
    (tmp_path / "events.jsonl").write_text('{"name": "notice", "data": {}}\n' + move + "\n")
    assert read_stage_changes(tmp_path) == [
        {"step": 7, "epoch": 1, "layer": "f.1", "seed": 0, "to": "culled"}
    ]


def test_sizes_are_read_from_the_start_and_from_each_change(tmp_path: Path) -> None:
    """The picture's parameters: the host's before anything grew, then each count at its step."""
    lines = [
        {"name": "run_started", "step": 0, "epoch": 0, "data": {"params_now": 100}},
        {"name": "seed_stage", "step": 7, "epoch": 0, "data": {"layer": "f", "seed": 0, "to": "blending"}},
        {"name": "topology_changed", "step": 7, "epoch": 0, "data": {"params": 130}},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_param_counts(tmp_path) == [(0, 100), (7, 130)]
