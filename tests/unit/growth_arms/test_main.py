from __future__ import annotations

import sys
from pathlib import Path

import pytest
from growth_arms.__main__ import main
from growth_arms.arms import STATIC_SMALL, arm_hash
from growth_arms.rows import append_row
from growth_arms.tasks import G3


def test_a_report_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results, picture = tmp_path / "r.jsonl", tmp_path / "r.svg"
    for seed, digest in ((0, arm_hash(G3, STATIC_SMALL, "heuristic")), (1, "of another configuration")):
        made = {"task": "G3", "arm": STATIC_SMALL, "seed": seed, "hash": digest, "test": 0.8, "val": 0.8}
        costs = {"params": 330, "param_epochs": 13_200.0, "flops": 1e9, "cpu_s": 1.0, "val_curve": [0.8]}
        append_row(results, made | costs)
    line = (
        f"growth --tasks G3 --arms static_small --seeds 2 --report-only --results {results} --plot {picture}"
    )
    monkeypatch.setattr(sys, "argv", line.split())
    main()
    assert "| static_small | 1 | 80.00 | 80.00 | 330 | 13 | 0.001 | 1.0 |" in capsys.readouterr().out
    assert picture.is_file()
    monkeypatch.setattr(sys, "argv", [*line.split(), "--as-recorded"])
    main()
    assert "| static_small | 2 | 80.00 +- 0.00 |" in capsys.readouterr().out


def test_an_unknown_arm_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["growth", "--arms", "statik"])
    with pytest.raises(SystemExit):
        main()
    assert "invalid choice: 'statik'" in capsys.readouterr().err
