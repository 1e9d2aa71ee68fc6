from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import Impact, SeedStage
from esper.loggers.json_encoding import scalars, to_json_line, to_strict_json

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(SeedStage)
_VALUES = st.recursive(_LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))
_KEYS = st.text().filter(lambda key: key != "nonfinite")


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_any_record_is_one_line_of_strict_json(record: dict[str, Any]) -> None:
    """The files metrics.jsonl and events.jsonl hold one valid object a line, whatever comes."""
    line = to_json_line(record)
    assert len(line.splitlines()) == 1
    assert set(json.loads(line, parse_constant=_refuse)) - {"nonfinite"} == set(record)


@given(st.dictionaries(_KEYS, st.floats()))
def test_a_value_that_is_not_finite_is_null_and_named(record: dict[str, float]) -> None:
    plain = to_strict_json(record)
    odd = {key: str(value) for key, value in record.items() if not math.isfinite(value)}
    assert plain.get("nonfinite", {}) == odd
    assert all(plain[key] == (None if key in odd else value) for key, value in record.items())


def test_nested_values_are_named_by_their_path() -> None:
    plain = to_strict_json({"data": {"losses": [1.0, math.nan]}})
    assert plain == {"data": {"losses": [1.0, None]}, "nonfinite": {"data.losses.1": "nan"}}


def test_types_of_other_libraries_become_jsons_own() -> None:
    record = {
        "stage": SeedStage.CULLED,
        "impact": Impact(0.5, 0.1, 0.01, 100),
        "path": Path("a/b"),
        "f32": np.float32(0.5),
        "i64": np.int64(3),
        "tuple": (1, 2),
        "set": {"b", "a"},
    }
    plain = json.loads(to_json_line(record))
    assert plain == {
        "stage": "culled",
        "impact": {
            "loss_gain": 0.5,
            "loss_gain_error": 0.1,
            "accuracy_gain": 0.01,
            "samples": 100,
            "error_over": "samples",
            "error_values": None,
        },
        "path": str(Path("a/b")),
        "f32": 0.5,
        "i64": 3,
        "tuple": [1, 2],
        "set": ["a", "b"],
    }


def test_scalars_are_found_at_any_depth() -> None:
    """Every scalar reaches the loggers, the seeds' too."""
    record = {"loss": 1, "on": True, "name": "x", "none": None, "counts": {"applied": 2}, "list": [1, 2]}
    record["seeds"] = [{"layer": "f.1", "seed": 0, "alpha": 0.5, "stage": "blending"}]
    found = scalars(record, "epoch/")
    assert found == {
        "epoch/loss": 1.0,
        "epoch/on": 1.0,
        "epoch/counts/applied": 2.0,
        "epoch/seeds/f.1.0/alpha": 0.5,
    }
