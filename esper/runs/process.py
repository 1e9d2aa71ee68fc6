"""What a job sets up around its run: sinks, settings of the process, the control server."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from esper.config import LoggingConfig, TolariaConfig
from esper.config.serialization import options
from esper.control.server import ControlServer
from esper.control.socket_path import socket_path
from esper.loggers import (
    ConsoleLogger,
    JsonlLogger,
    Logger,
    LoggerHub,
    ProgressBar,
    StatusLogger,
    TensorBoardLogger,
    WandbLogger,
)
from esper.runs.control_handler import ControlHandler
from esper.utils.device_and_rng import set_deterministic, set_threads
from esper.utils.files import write_json_atomic

LOGGERS_FILE = "loggers.json"
_SHOWN_LINE = 100  # characters


def make_recorder(
    config: LoggingConfig,
    display: ProgressBar,
    status: StatusLogger,
    own: Sequence[Logger] = (),
    *,
    dry: bool = False,
) -> LoggerHub:
    """The loggers that the configuration asks for: files and display at once, the others behind a queue.

    `own` are the user's, behind the queue. A `dry` one only shows and logs.
    """
    if dry:
        return LoggerHub([ConsoleLogger(), display], [], time.time)
    files: list[Logger] = [JsonlLogger(), ConsoleLogger(), display, status]
    slow: list[Logger] = []
    if config.use_tensorboard:
        slow.append(TensorBoardLogger(config.tensorboard_log_dir))
    if config.use_wandb:
        slow.append(WandbLogger(config.wandb_project, config.wandb_entity, config.wandb_config))
    return LoggerHub(files, [*slow, *own], time.time, metrics_interval=config.metrics_interval)


@contextmanager
def process_settings(config: TolariaConfig) -> Iterator[None]:
    """Threads, determinism, anomaly detection as configured; as they were afterwards, for the next job."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    anomalies = torch.is_anomaly_enabled()
    set_threads(config.trainer.num_threads)
    set_deterministic(config.trainer.deterministic)
    torch.autograd.set_detect_anomaly(config.debug_mode)
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(anomalies)
        set_threads(threads)
        set_deterministic(deterministic)


def start_control_server(
    answers: ControlHandler, run_dir: Path, environment: Mapping[str, str] = os.environ
) -> tuple[ControlServer | None, str]:
    """A server for `esper-ctl`, or None and why there is none: a run never fails for it."""
    server = ControlServer(answers.actions())
    try:
        server.start(socket_path(environment, Path(tempfile.gettempdir())), run_dir)
    except OSError as error:
        return None, f"esper-ctl cannot reach this run: {error.strerror or error}"
    return server, ""


def idle_options(config: TolariaConfig) -> list[str]:
    """Options that have no effect with the others as they are, and what cannot be repeated exactly."""
    notes = []
    m = config.morphogenetic
    if not m.tamiyo_enabled:
        notes.append("morphogenetic.* is idle: tamiyo_enabled is false")
    elif m.adaptation_cooldown > 0:
        notes.append(
            f"morphogenetic.adaptation_cooldown is {m.adaptation_cooldown:g} s of wall clock: "
            "this run cannot be repeated exactly"
        )
    return notes


def worth_a_line(notes: Sequence[str], config: TolariaConfig) -> list[str]:
    """What a person is to see of these notes, in lines of about 100 characters; the rest is for the files.

    Idle options are named where they were given another value than their default, all in one line and
    without the reasons. A note that is not of idle options is shown as it is, but for where data come from.
    """
    names = [name for note in notes for name in _idle_names(note) if _was_set(name, config)]
    others = [note for note in notes if " idle: " not in note and " is read from " not in note]
    head = f"no effect here: {', '.join(names)}"
    if len(head) > _SHOWN_LINE:
        head = f"{head[: head.rindex(',', 0, _SHOWN_LINE - 12)]} and others"
    return [head] * bool(names) + others


def _idle_names(note: str) -> list[str]:
    head, idle, _ = note.partition(" idle: ")
    return re.findall(r"\b[a-z_]+\.[a-z_*]+", head) if idle else []


def _was_set(name: str, config: TolariaConfig) -> bool:
    """Whether the option, or one of the group `name.*`, differs from its default."""
    prefix = name.removesuffix("*")
    default, switch = options(TolariaConfig()), "morphogenetic.tamiyo_enabled"
    found = options(config).items()
    return any(
        key.startswith(prefix) and key != switch and value != default[key]
        for key, value in found
        if key == name or prefix != name
    )


def keep_logger_ids(run_dir: Path, recorder: LoggerHub) -> None:
    """Note in the run folder how the loggers call this run, before its first step."""
    ids = {name: state for name, state in recorder.state().items() if name != JsonlLogger.NAME}
    if ids:
        write_json_atomic(run_dir / LOGGERS_FILE, ids)


def saved_logger_ids(run_dir: Path) -> dict[str, Any]:
    """What `keep_logger_ids` noted: a run that died before its first checkpoint resumes under its old id."""
    try:
        found = json.loads((run_dir / LOGGERS_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
