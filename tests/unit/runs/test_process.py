"""The loggers' run ids are saved before the first step, and used again after a resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from esper.config import LoggingConfig, TolariaConfig
from esper.loggers import JsonlLogger, Logger, LoggerHub, ProgressBar, RunInfo, StatusLogger, WandbLogger
from esper.runs.process import LOGGERS_FILE, keep_logger_ids, make_recorder, saved_logger_ids, worth_a_line


class Remembers(Logger):
    """A slow sink with an id of its own, as wandb's."""

    def __init__(self, own: str) -> None:
        self.name, self.id = "remembers", own

    def start(self, info: RunInfo) -> None:
        saved: Mapping[str, Any] = info.state.get(self.name, {})
        self.id = saved.get("id", self.id)

    def state(self) -> dict[str, Any]:
        return {"id": self.id}


def info(run_dir: Path) -> RunInfo:
    return RunInfo(
        session_name="s",
        run_dir=run_dir,
        config={},
        max_epochs=1,
        steps_per_epoch=1,
        samples_per_epoch=1,
        params_host=1,
        start_step=0,
    )


def start(run_dir: Path, own: str) -> str:
    """Start a run's records and die before the first step; the id that its logger used."""
    logger = Remembers(own)
    recorder = LoggerHub([JsonlLogger()], [logger], lambda: 0.0)
    recorder.start(replace(info(run_dir), state=saved_logger_ids(run_dir)))
    keep_logger_ids(run_dir, recorder)
    recorder.close()
    return logger.id


def test_a_run_that_began_anew_goes_on_under_its_loggers_id(tmp_path: Path) -> None:
    assert start(tmp_path, "first") == "first"
    assert saved_logger_ids(tmp_path) == {"remembers": {"id": "first"}}, (
        "no lengths of files: they are cleared"
    )
    assert start(tmp_path, "second") == "first"


def test_wandbs_id_is_known_before_it_is_started() -> None:
    """So that it can be kept however long wandb takes."""
    logger = WandbLogger("p", None, {})
    assert logger.state()["id"]


def test_without_loggers_or_with_a_torn_file_there_is_nothing(tmp_path: Path) -> None:
    recorder = make_recorder(
        LoggingConfig(progress=False), ProgressBar(Console(quiet=True), False), StatusLogger()
    )
    recorder.start(info(tmp_path))
    keep_logger_ids(tmp_path, recorder)
    recorder.close()
    assert not (tmp_path / LOGGERS_FILE).exists()
    (tmp_path / LOGGERS_FILE).write_text("{")
    assert saved_logger_ids(tmp_path) == {}


def test_a_dry_recorder_writes_nothing(tmp_path: Path) -> None:
    recorder = make_recorder(
        LoggingConfig(progress=False, use_tensorboard=True),
        ProgressBar(Console(quiet=True), False),
        StatusLogger(),
        dry=True,
    )
    recorder.start(info(tmp_path))
    recorder.close()
    assert list(tmp_path.iterdir()) == []


IDLE = [
    "dataset.data_root and dataset.download are idle: digits comes from scikit-learn",
    "dataset.num_workers and dataset.pin_memory are idle: digits lives on the device (cpu)",
]


def test_nothing_is_shown_of_idle_options_that_have_their_defaults() -> None:
    assert worth_a_line([*IDLE, "mnist is read from /data"], TolariaConfig()) == []


def test_idle_options_that_were_set_are_named_in_one_short_line() -> None:
    config = TolariaConfig.from_dict({"dataset": {"num_workers": 2, "data_root": "/mine"}})
    assert worth_a_line(IDLE, config) == ["no effect here: dataset.data_root, dataset.num_workers"]


def test_a_line_of_many_idle_options_is_cut() -> None:
    changed = {
        "num_workers": 2,
        "data_root": "/mine",
        "download": False,
        "pin_memory": False,
        "test_split": 0.3,
    }
    config = TolariaConfig.from_dict({"dataset": changed})
    [line] = worth_a_line([*IDLE, "dataset.test_split is idle: it has a test set of its own"], config)
    assert len(line) <= 100 and line.startswith("no effect here: dataset.data_root, ") and "others" in line


def test_a_group_that_is_idle_is_named_where_one_of_its_options_was_set() -> None:
    note = "morphogenetic.* is idle: tamiyo_enabled is false"
    off = {"tamiyo_enabled": False}
    assert worth_a_line([note], TolariaConfig.from_dict({"morphogenetic": off})) == []
    config = TolariaConfig.from_dict({"morphogenetic": {**off, "adaptation_cooldown": 3.0}})
    assert worth_a_line([note], config) == ["no effect here: morphogenetic.*"]


def test_notes_that_matter_are_shown_whole() -> None:
    note = "the splits of my.Data are not stratified: it has no `targets` or `labels`"
    assert worth_a_line([note], TolariaConfig()) == [note]
