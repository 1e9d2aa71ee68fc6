from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import esper
from esper.errors import RecordError
from esper.leyline import SeedStage
from esper.loggers import JsonlLogger, plot_run
from esper.loggers.plots import Span, figure_of, stage_spans


def _write(logger: JsonlLogger, info: Any, records: list[dict[str, Any]], moves: list[Any]) -> None:
    logger.start(info)
    for move in moves:
        logger.event(move)
    for record in records:
        logger.epoch(record)
    logger.close()


def _colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width > 1000
        return {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3)}


def test_a_run_is_drawn_with_its_seeds(
    make_info: Any, make_epoch: Any, make_move: Any, tmp_path: Path
) -> None:
    """Issue 2: accuracy and parameters over epochs with the seeds' stages, written by the program."""
    moves = [make_move("dormant", "germinated", step=15), make_move("germinated", "fossilized", step=25)]
    _write(JsonlLogger(), make_info(), [make_epoch(epoch) for epoch in range(1, 5)], moves)
    path = plot_run(tmp_path)
    assert path == tmp_path / "run.png"
    colours = _colours(path)
    for part, colour in {
        "validation": "1f6f8b",
        "training": "9db2c4",
        "params": "6c5b7b",
        "fossil": "2f6b4f",
    }.items():
        assert tuple(bytes.fromhex(colour)) in colours, part


def test_a_notebook_shows_the_figure_as_an_image(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    """IPython asks an object for `_repr_png_` where matplotlib's display is not set up."""
    _write(JsonlLogger(), make_info(), [make_epoch(1), make_epoch(2)], [])
    with Image.open(io.BytesIO(figure_of(tmp_path)._repr_png_())) as image:  # type: ignore[attr-defined]
        assert (image.format, image.width) == ("PNG", 900)


@pytest.mark.parametrize("epochs", [1, 3])
def test_runs_without_seeds_or_accuracy_are_drawn(
    make_info: Any, make_epoch: Any, tmp_path: Path, epochs: int
) -> None:
    records = [make_epoch(n, train_accuracy=None, val_accuracy=None) for n in range(1, epochs + 1)]
    _write(JsonlLogger(), make_info(), records, [])
    assert tuple(bytes.fromhex("1f6f8b")) in _colours(plot_run(tmp_path))


def test_values_that_are_not_there_are_gaps(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    records = [make_epoch(1), make_epoch(2, val_accuracy=float("nan")), make_epoch(3)]
    _write(JsonlLogger(), make_info(), records, [])
    assert plot_run(tmp_path).exists()


def test_without_an_epoch_there_is_no_picture(make_info: Any, tmp_path: Path) -> None:
    _write(JsonlLogger(), make_info(), [], [])
    with pytest.raises(RecordError, match=r"metrics\.jsonl holds no epoch"):
        plot_run(tmp_path)


def _move(step: int, old: str, new: str, blueprint: str = "mlp") -> dict[str, Any]:
    return {"step": step, "layer": "f", "seed": 0, "blueprint": blueprint, "from": old, "to": new}


_RECORDS = [{"epoch": epoch, "step": 10 * epoch} for epoch in range(1, 6)]


def test_stages_lie_where_their_steps_do() -> None:
    moves = [
        _move(15, "dormant", "germinated"),
        _move(15, "germinated", "training"),
        _move(32, "training", "blending"),
    ]
    assert stage_spans(moves, _RECORDS) == {
        "f[0] mlp": [
            Span(SeedStage.GERMINATED, 1.5, 1.5),
            Span(SeedStage.TRAINING, 1.5, 3.2),
            Span(SeedStage.BLENDING, 3.2, 5.0),
        ]
    }


def test_a_slot_used_again_has_a_row_for_each_seed() -> None:
    life = [
        ("dormant", "germinated"),
        ("germinated", "culled"),
        ("culled", "embargoed"),
        ("embargoed", "dormant"),
    ]
    moves = [_move(10 + index, old, new) for index, (old, new) in enumerate(life)]
    moves += [
        _move(20, "dormant", "germinated"),
        _move(30, "germinated", "culled"),
        _move(30, "culled", "embargoed", ""),
    ]
    spans = stage_spans(moves, _RECORDS)
    assert list(spans) == ["f[0] mlp", "f[0] mlp'"]
    assert [span.stage for span in spans["f[0] mlp"]] == ["germinated", "culled", "embargoed"]
    assert spans["f[0] mlp"][-1].end == pytest.approx(1.3)
    assert [span.stage for span in spans["f[0] mlp'"]] == ["germinated", "culled", "embargoed"]


_PROGRAM = """
import sys
from pathlib import Path
from esper.loggers import plot_run
plot_run(Path(sys.argv[1]))
import matplotlib
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules
"""


def test_drawing_leaves_the_home_folder_and_pyplot_alone(tmp_path: Path) -> None:
    """Nothing is written outside the run folder; no global state of a notebook's pyplot is touched."""
    home, run_dir = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 1, "val_loss": 0.5}) + "\n")
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    environment["PYTHONPATH"] = str(Path(esper.__file__).parents[1])
    subprocess.run([sys.executable, "-W", "error", "-c", _PROGRAM, str(run_dir)], env=environment, check=True)
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in run_dir.iterdir()) == ["metrics.jsonl", "run.png"]
