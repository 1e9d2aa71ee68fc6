"""A run in TensorBoard: every scalar, the configuration, the seeds and the summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.leyline import Event, EventName, SeedStage
from esper.loggers.base import Logger, RunInfo
from esper.loggers.json_encoding import scalars, seed_key, to_strict_json

# What runs are compared by in the HParams tab; it has to be named before there are values.
_COMPARED = ("epoch/val_accuracy", "epoch/val_loss", "summary/test_accuracy", "summary/params_final")
# Events whose numbers are curves of their own, under the names that they carry.
CURVES = frozenset(
    {EventName.SEED_GRADIENTS, EventName.OPTIMIZER_REBUILT, EventName.OPTIMIZER_REBUILD_FAILED}
)
STAGE_NUMBER = {str(stage): number for number, stage in enumerate(SeedStage)}


class TensorBoardLogger(Logger):
    """Writes to `log_dir` (relative: inside the run folder); the horizontal axis is the optimiser step.

    Tags: `epoch/*`, `step/*`, `summary/*`, `seeds/<layer>.<seed>/stage` (a stage's place in
    `leyline.SeedStage`), the numbers of events in `CURVES` and the texts `config`, `seeds/timeline` and
    `summary`. What an earlier writer left in the folder beyond this run's start is hidden, so that no point
    comes twice in a continued run.
    """

    def __init__(self, log_dir: str = "./tensorboard") -> None:
        self.name = "tensorboard"
        self._log_dir = log_dir
        self._writer: Any = None
        self._step = 0
        self._end: Any = None

    def start(self, info: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter  # 1 s without torch: only where it is wanted

        folder = str(Path(info.run_dir, self._log_dir))
        self._step = info.start_step
        self._writer = SummaryWriter(folder, purge_step=info.start_step + 1 if info.resumed else 0)
        self._text("config", _code(info.config))
        self._hparams(info)
        self._writer.flush()

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._step = record["step"]
        self._scalars("epoch/", record)
        self._writer.flush()

    def step(self, record: Mapping[str, Any]) -> None:
        self._step = record["step"]
        self._scalars("step/", record)

    def event(self, event: Event) -> None:
        if event.name in CURVES:
            self._step = event.step
            self._scalars("", event.data)
        if event.name != EventName.SEED_STAGE:
            return
        data = event.data
        self._step = event.step
        self._scalars(f"seeds/{seed_key(data)}/", {"stage": STAGE_NUMBER[data["to"]]})
        line = f"epoch {event.epoch}: **{seed_key(data)}** {data['blueprint']}: {data['from']} → {data['to']}"
        self._text("seeds/timeline", f"{line} ({data['reason']})")

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._scalars("summary/", summary)
        self._text("summary", _code(summary))
        self._writer.file_writer.add_summary(self._end)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, prefix: str, record: Mapping[str, Any]) -> None:
        for tag, value in scalars(record, prefix).items():
            self._writer.add_scalar(tag, value, self._step)

    def _text(self, tag: str, text: str) -> None:
        self._writer.add_text(tag, text, self._step)

    def _hparams(self, info: RunInfo) -> None:
        # SummaryWriter.add_hparams would open a second file, and TensorBoard stops reading the first.
        from torch.utils.tensorboard.summary import hparams

        experiment, session, self._end = hparams(_flat(info.config), dict.fromkeys(_COMPARED, 0.0))
        self._writer.file_writer.add_summary(experiment)
        self._writer.file_writer.add_summary(session)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as `group.key: value`, lists and nulls as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def _code(record: Mapping[str, Any]) -> str:
    return "```json\n" + json.dumps(to_strict_json(record), indent=2) + "\n```"
