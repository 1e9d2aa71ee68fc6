"""A resumed run's epochs come back from the checkpoint, byte for byte; what was found is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.loggers import restore_metrics
from esper.loggers.metrics_copy import LIMIT_BYTES, MetricsCopy

LINES = [json.dumps({"epoch": epoch, "step": 10 * epoch}).encode() + b"\n" for epoch in range(1, 6)]
WHOLE = b"".join(LINES)
SAVED = {"metrics.jsonl": len(WHOLE), "epochs": MetricsCopy(WHOLE).to_json()}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "metrics.jsonl was missing; its epochs are restored from the checkpoint"),
        (b"", f"metrics.jsonl had 0 of {len(WHOLE)} bytes; its epochs are restored"),
        (WHOLE[:50], f"metrics.jsonl had 50 of {len(WHOLE)} bytes; its epochs are restored"),
        (WHOLE[:-1], f"metrics.jsonl had {len(WHOLE) - 1} of {len(WHOLE)} bytes"),
        (WHOLE.replace(b": 30", b": 70"), "was not what the run had written, first in line 3;"),
        (WHOLE.replace(b": 30", b": \xff0") + b'{"epoch": 6}\n', "first in line 3;"),
        (b"\n" + WHOLE, "first in line 1;"),
    ],
)
def test_every_epoch_comes_back(tmp_path: Path, found: bytes | None, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    if found is not None:
        path.write_bytes(found)
    (tmp_path / "metrics.jsonl.before-1").write_bytes(b"of an earlier time")
    sentence = restore_metrics(tmp_path, SAVED)
    assert path.read_bytes() == WHOLE
    assert message in sentence
    kept = tmp_path / "metrics.jsonl.before-2"
    assert (kept.read_bytes() if kept.exists() else None) == (found or None)
    assert (kept.name in sentence) == kept.exists()
    assert restore_metrics(tmp_path, SAVED) == ""


@pytest.mark.parametrize("later", [b"", b'{"epoch": 6}\n{"epo'])
def test_a_file_that_only_went_on_is_left_alone(tmp_path: Path, later: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(WHOLE + later)
    assert restore_metrics(tmp_path, SAVED) == ""
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [WHOLE + later]


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"metrics.jsonl": len(WHOLE)},  # saved before there was a copy
        {"metrics.jsonl": len(WHOLE) + 1, "epochs": SAVED["epochs"]},  # longer than a copy may be
        {"metrics.jsonl": 0, "epochs": []},
        {"metrics.jsonl": "9", "epochs": SAVED["epochs"]},
    ],
)
def test_without_a_whole_copy_nothing_is_touched(tmp_path: Path, saved: dict[str, object]) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"torn")
    assert restore_metrics(tmp_path, saved) == ""
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"torn"


@given(content=st.binary(max_size=300), repeats=st.sampled_from([1, 2000]), cut=st.integers(0, 700_000))
def test_a_copy_is_the_content_also_after_a_cut(content: bytes, repeats: int, cut: int) -> None:
    whole = content * repeats
    transcript = MetricsCopy(whole)
    for length in (None, cut):
        again = MetricsCopy.from_json(json.loads(json.dumps(transcript.to_json(length))))
        assert again is not None and again.content == whole[:length]
    transcript.cut(cut)
    transcript.append(b"more")
    again = MetricsCopy.from_json(transcript.to_json())
    assert again is not None and again.content == whole[:cut] + b"more"


def test_a_copy_has_an_end() -> None:
    transcript = MetricsCopy(b"x" * (LIMIT_BYTES + 5))
    transcript.append(b"y")
    again = MetricsCopy.from_json(transcript.to_json())
    assert again is not None and again.content == b"x" * LIMIT_BYTES


@pytest.mark.parametrize("saved", [None, 3, "x", [3], ["x"], ["AAAA"], [""] * 1000, [["AAAA"]]])
def test_what_is_no_copy_is_none(saved: object) -> None:
    assert MetricsCopy.from_json(saved) is None
