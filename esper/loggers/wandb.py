"""A run in Weights & Biases, with or without a network."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from esper.leyline import Event, EventName
from esper.loggers.base import Json, Logger, RunInfo
from esper.loggers.json_encoding import scalars, seed_key, to_strict_json
from esper.loggers.jsonl_reader import read_stage_changes
from esper.loggers.tensorboard import CURVES, STAGE_NUMBER

_log = logging.getLogger("esper.loggers")
_COLUMNS = ("epoch", "step", "layer", "seed", "blueprint", "from", "to", "reason")
# The run's own output stays with the display, and its code with the user.
_SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "save_code": False,
    "disable_job_creation": True,
}


class WandbLogger(Logger):
    """Sends to wandb what TensorBoard gets, under the same names, and the seeds' timeline as a table.

    Everything local lies in the run folder's `wandb/`. Where neither WANDB_MODE is set nor credentials are
    found, the run is recorded offline, which one line in the log says. The run's id is drawn at construction
    or taken from `info.state`, so that a resumed run continues the same wandb run. `options` are further
    arguments of `wandb.init` and win over the ones given here.
    """

    def __init__(self, project: str, entity: str | None, options: Mapping[str, Any]) -> None:
        self.name = "wandb"
        self._project = project
        self._entity = entity
        self._options = dict(options)
        self._id = secrets.token_hex(4)
        self._run: Any = None
        self._run_dir = Path()
        self._axis = _StepAxis()
        self._finished = False
        self._owned = ExitStack()

    def start(self, info: RunInfo) -> None:
        saved = info.state.get(self.name, {})
        self._id = saved.get("id", self._id)
        self._run_dir = info.run_dir
        offline = "mode" not in self._options and "WANDB_MODE" not in os.environ and not has_credentials()
        self._owned.enter_context(_Environment(info.run_dir / "wandb", offline))
        self._run = self._init(info, offline)
        self._axis = _StepAxis(max(saved.get("last", -1), self._run.step - 1), saved.get("shift", 0))
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if offline:
            _log.info("wandb is offline (no API key); to upload: wandb sync %s", self._run.settings.sync_dir)

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._log(scalars(record, "epoch/"), record["step"])

    def step(self, record: Mapping[str, Any]) -> None:
        self._log(scalars(record, "step/"), record["step"])

    def event(self, event: Event) -> None:
        if event.name in CURVES:
            self._log(scalars(event.data), event.step)
        if event.name == EventName.SEED_STAGE:
            stage = STAGE_NUMBER[event.data["to"]]
            self._log({f"seeds/{seed_key(event.data)}/stage": stage}, event.step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._finished = True
        self._run.summary.update(to_strict_json({f"summary/{key}": value for key, value in summary.items()}))

    def close(self) -> None:
        with self._owned:
            if self._run is None:
                return
            try:
                self._timeline()
            finally:
                self._run.finish(exit_code=0 if self._finished else 1)

    def state(self) -> dict[str, Json]:
        return {"id": self._id, "last": self._axis.last, "shift": self._axis.shift}

    def _init(self, info: RunInfo, offline: bool) -> Any:
        import wandb  # 0.4 s, and a process of its own once a run is open

        arguments: dict[str, Any] = {
            "project": self._project,
            "entity": self._entity,
            "name": info.session_name if info.job is None else f"{info.session_name}-{info.job}",
            "group": info.group,
            "config": to_strict_json({**info.config, "params_host": info.params_host}),
            "id": self._id,
            "resume": "allow",
            "reinit": "create_new",  # a notebook's own run stays open
            **({"mode": "offline"} if offline else {}),
            **self._options,
            "dir": str(info.run_dir),
        }
        arguments["settings"] = wandb.Settings(**{**_SETTINGS, **self._options.get("settings", {})})
        return wandb.init(**arguments)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        self._run.log({**values, "step": step}, step=self._axis.to_wandb_step(step))

    def _timeline(self) -> None:
        import wandb

        rows = [[move.get(column) for column in _COLUMNS] for move in read_stage_changes(self._run_dir)]
        if rows:
            self._run.log({"seeds/timeline": wandb.Table(columns=list(_COLUMNS), data=rows)})


class _StepAxis:
    """wandb drops what comes with a smaller step than the last, e.g. after a rollback: shift it along."""

    def __init__(self, last: int = -1, shift: int = 0) -> None:
        self.last = last
        self.shift = shift

    def to_wandb_step(self, step: int) -> int:
        if step + self.shift < self.last:
            self.shift = self.last + 1 - step
        self.last = step + self.shift
        return self.last


class _Environment:
    """Keeps wandb's cache, staging area and, offline, its telemetry settings in the run folder by default.

    wandb takes these from the environment only. What was set here is removed at the end.
    """

    def __init__(self, folder: Path, offline: bool) -> None:
        wanted = {"WANDB_CACHE_DIR": str(folder / "cache"), "WANDB_DATA_DIR": str(folder / "data")}
        if offline:
            wanted["WANDB_ERROR_REPORTING"] = "false"
        self._set = {key: value for key, value in wanted.items() if key not in os.environ}
        self._staging = Path(self._set["WANDB_DATA_DIR"]) if "WANDB_DATA_DIR" in self._set else None

    def __enter__(self) -> None:
        os.environ.update(self._set)

    def __exit__(self, *_: object) -> None:
        for key in self._set:
            os.environ.pop(key, None)
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)  # empty files once a run is finished


def has_credentials() -> bool:
    """Return whether wandb would find a way to log in: its variables, or an entry in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
