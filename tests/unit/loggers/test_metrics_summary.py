from __future__ import annotations

import json
import math
from pathlib import Path

from esper.loggers import summarise_metrics, write_summary


def test_summary_is_strict_json_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "summary.json"
    write_summary(path, {"val_loss": math.inf, "seeds": [{"layer": "f.1"}]})
    write_summary(path, {"val_loss": math.nan, "seeds": []})
    assert json.loads(path.read_text()) == {"val_loss": None, "seeds": [], "nonfinite": {"val_loss": "nan"}}
    assert [item.name for item in path.parent.iterdir()] == ["summary.json"]


def test_metrics_are_summed_up_by_their_extremes(tmp_path: Path) -> None:
    """`logging.metrics_file` is a JSON summary of metrics.jsonl."""
    losses = [3.0, 1.0, None, 2.0]
    lines = [{"epoch": n, "val_loss": loss, "note": "text"} for n, loss in enumerate(losses, start=1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    extremes = {"first": 3.0, "last": 2.0, "min": 1.0, "min_epoch": 2, "max": 3.0, "max_epoch": 1}
    assert summarise_metrics(tmp_path) == {"epochs": 4, "metrics": {"val_loss": extremes}}


def test_no_metrics_are_no_error(tmp_path: Path) -> None:
    assert summarise_metrics(tmp_path) == {"epochs": 0, "metrics": {}}
