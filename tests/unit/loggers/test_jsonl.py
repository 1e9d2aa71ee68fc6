from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import OutputError
from esper.leyline import EPOCH_METRICS, Event
from esper.loggers import JsonlLogger, RunInfo, read_jsonl
from esper.loggers.metrics_copy import MetricsCopy


def test_an_epoch_is_a_line_at_once(
    make_info: Callable[..., RunInfo], make_epoch: Any, tmp_path: Path
) -> None:
    """One object an epoch with the names of `EPOCH_METRICS`, readable while the run goes on."""
    logger = JsonlLogger()
    logger.start(make_info())
    logger.epoch(make_epoch(1))
    (line,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert set(EPOCH_METRICS) <= set(line)
    logger.close()


def test_an_event_has_the_fields_of_c9(make_info: Any, make_move: Any, tmp_path: Path) -> None:
    """Time, name, level, step, epoch and data."""
    event = make_move("dormant", "germinated")
    logger = JsonlLogger()
    logger.start(make_info())
    logger.event(event)
    logger.close()
    (line,) = read_jsonl(tmp_path / "events.jsonl")
    assert list(line) == ["time", "name", "level", "step", "epoch", "data"]
    assert Event(**line) == event


def test_step_lines_have_a_file_only_if_there_are_any(make_info: Any, tmp_path: Path) -> None:
    """Per-step loss, accuracy and gradient norm with a global step."""
    logger = JsonlLogger()
    logger.start(make_info())
    assert not (tmp_path / "steps.jsonl").exists()
    record = {"step": 1, "loss": 0.5, "accuracy": 0.25, "grad_norm": 2.0}
    logger.step(record)
    logger.close()
    assert list(read_jsonl(tmp_path / "steps.jsonl")) == [record]


def test_a_continued_run_has_no_line_twice(
    make_info: Any, make_epoch: Any, make_move: Any, tmp_path: Path
) -> None:
    """A run resumed in its own folder continues its files from where it was saved."""
    first = JsonlLogger()
    first.start(make_info())
    first.epoch(make_epoch(1))
    saved = {first.name: first.state()}
    first.epoch(make_epoch(2))
    first.step({"step": 11, "loss": 1.0})
    first.event(make_move("dormant", "germinated"))
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')  # the process was killed here

    second = JsonlLogger()
    second.start(make_info(resumed=True, start_step=10, state=saved))
    second.epoch(make_epoch(2))
    second.close()
    assert [line["epoch"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]
    assert list(read_jsonl(tmp_path / "events.jsonl")) == []


@given(cut=st.integers(0, 200))
def test_after_a_kill_at_any_byte_every_line_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    lines = "".join(json.dumps({"epoch": epoch, "step": epoch}) + "\n" for epoch in range(1, 8)).encode()
    (folder / "metrics.jsonl").write_bytes(lines[:cut])
    logger = JsonlLogger()
    info = RunInfo(
        session_name="s",
        run_dir=folder,
        config={},
        max_epochs=9,
        steps_per_epoch=1,
        samples_per_epoch=1,
        params_host=1,
        start_step=0,
        resumed=True,
    )
    logger.start(info)
    logger.epoch({"epoch": 8})
    logger.close()
    whole = lines[:cut].count(b"\n")
    assert [line["epoch"] for line in read_jsonl(folder / "metrics.jsonl")] == [*range(1, whole + 1), 8]


def test_state_counts_bytes(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    """A checkpoint holds the offsets of the metric files."""
    logger = JsonlLogger()
    logger.start(make_info())
    logger.epoch(make_epoch(1))
    state = logger.state()
    copy = MetricsCopy.from_json(state.pop("epochs"))
    assert copy is not None and copy.content == (tmp_path / "metrics.jsonl").read_bytes()
    assert state == {
        "metrics.jsonl": (tmp_path / "metrics.jsonl").stat().st_size,
        "events.jsonl": 0,
    }
    logger.close()


def test_a_fresh_run_sets_an_earlier_ones_files_aside(
    make_info: Any, make_epoch: Any, tmp_path: Path
) -> None:
    for epoch in (1, 2, 3):
        logger = JsonlLogger()
        logger.start(make_info())
        logger.epoch(make_epoch(epoch))
        logger.close()
    kept = {path.name: [line["epoch"] for line in read_jsonl(path)] for path in tmp_path.glob("metrics*")}
    assert kept == {"metrics.1.jsonl": [1], "metrics.2.jsonl": [2], "metrics.jsonl": [3]}


def test_another_folders_offsets_make_no_holes(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    """A run continued into a new folder starts that folder's files."""
    logger = JsonlLogger()
    logger.start(make_info(resumed=True, state={"jsonl": {"metrics.jsonl": 99}}))
    logger.epoch(make_epoch(2))
    logger.close()
    assert [line["epoch"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [2]


def test_a_repeated_epoch_has_one_line_and_its_events_stay(
    make_info: Any, make_epoch: Any, make_move: Any, tmp_path: Path
) -> None:
    """After a rollback there is one line an epoch, in the copy too; events.jsonl keeps everything."""
    logger = JsonlLogger()
    logger.start(make_info())
    logger.epoch(make_epoch(1))
    logger.step({"step": 10, "loss": 0.5})
    then = logger.state()
    for epoch in (2, 3):
        logger.epoch(make_epoch(epoch, train_loss=9.0))
        logger.step({"step": 10 * epoch, "loss": 9.0})
        logger.event(make_move("dormant", "germinated"))
    logger.rewind(then)
    logger.epoch(make_epoch(2))
    logger.step({"step": 20, "loss": 0.25})
    copy = MetricsCopy.from_json(logger.state()["epochs"])
    assert copy is not None and copy.content == (tmp_path / "metrics.jsonl").read_bytes()
    logger.close()
    assert [(r["epoch"], r["train_loss"]) for r in read_jsonl(tmp_path / "metrics.jsonl")] == [
        (1, 1),
        (2, 0.5),
    ]
    assert [record["loss"] for record in read_jsonl(tmp_path / "steps.jsonl")] == [0.5, 0.25]
    assert len(list(read_jsonl(tmp_path / "events.jsonl"))) == 2


def test_sync_may_be_asked_at_any_time(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    """By the thread that writes checkpoints, also while the run goes back."""
    logger = JsonlLogger()
    logger.sync()
    logger.start(make_info())
    logger.epoch(make_epoch(1))
    then = logger.state()
    logger.sync()
    logger.rewind(then)
    logger.sync()
    logger.close()
    assert then["metrics.jsonl"] == (tmp_path / "metrics.jsonl").stat().st_size


def test_a_run_that_goes_back_to_its_start_has_no_line(
    make_info: Any, make_epoch: Any, tmp_path: Path
) -> None:
    logger = JsonlLogger()
    logger.start(make_info())
    then = logger.state()
    logger.epoch(make_epoch(1))
    logger.step({"step": 10, "loss": 0.5})
    logger.rewind(then)
    logger.close()
    for name in ("metrics.jsonl", "steps.jsonl"):
        assert (tmp_path / name).read_bytes() == b""


def test_what_a_rewind_will_leave_is_known_before(make_info: Any, make_epoch: Any, tmp_path: Path) -> None:
    """A checkpoint that is saved before the files are cut holds the lengths that they will have."""
    logger = JsonlLogger()
    logger.start(make_info())
    logger.epoch(make_epoch(1))
    then = logger.state()
    logger.epoch(make_epoch(2))
    logger.step({"step": 1, "loss": 0.5, "accuracy": 0.25, "grad_norm": 2.0})
    before = logger.state()
    foretold = logger.rewound(then)
    assert logger.state() == before  # nothing is cut yet
    logger.rewind(then)
    after = logger.state()
    assert foretold == {**after, "steps.jsonl": 0}
    assert after["metrics.jsonl"] == then["metrics.jsonl"]
    logger.close()


def test_records_of_a_folder_that_was_removed_are_an_output_error(make_info: Any, tmp_path: Path) -> None:
    """It is no crash: no line of code is at fault."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    logger = JsonlLogger()
    logger.start(make_info(run_dir=run_dir))
    shutil.rmtree(run_dir)
    with pytest.raises(OutputError, match=r"steps.jsonl was removed while the run was writing to it"):
        logger.step({"step": 1, "loss": 1.0})
    with pytest.raises(OutputError, match=r"metrics.jsonl was removed while the run was writing to it"):
        logger.rewind({})
    logger.close()
