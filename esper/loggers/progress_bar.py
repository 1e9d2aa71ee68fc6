"""The progress display: live on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from time import monotonic
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar as RichBar
from rich.table import Table
from rich.text import Text

from esper.leyline import Event, EventName, SeedStage
from esper.loggers.base import Logger, RunInfo
from esper.loggers.formatting import decimal, duration, format_event, percent, seed_name

# Rendering takes some milliseconds of the training thread's time.
_REFRESH_S = 0.5
_SEED_ROWS = 8
_REMOVED = frozenset({SeedStage.DORMANT, SeedStage.EMBARGOED})
_WHOLE = frozenset({SeedStage.PROBATIONARY, SeedStage.FOSSILIZED})


class ProgressBar(Logger):
    """Shows a run on `console`; where that is no terminal, in plain lines without control characters.

    Only the loop's own thread draws, at most twice a second. `clock` gives seconds.
    """

    def __init__(self, console: Console, enabled: bool, clock: Callable[[], float] = monotonic) -> None:
        self.name = "display"
        self.every_epoch = True
        self._console = console
        self._enabled = enabled
        self._clock = clock
        self._live: Live | None = None
        self._estimate: _ProgressEstimate | None = None
        self._drawn = 0.0
        self._loss: float | None = None
        self._record: Mapping[str, Any] = {}
        self._seeds: dict[str, dict[str, Any]] = {}
        self._last_event = ""
        self._owned = ExitStack()

    def start(self, info: RunInfo) -> None:
        self._estimate = _ProgressEstimate(info, self._clock)
        if self._enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            live = Live(console=self._console, auto_refresh=False, get_renderable=self._render)
            self._live = self._owned.enter_context(live)

    def progress(self, step_in_epoch: int, loss: float | None) -> None:
        """Report that `step_in_epoch` steps of the epoch are done; cheap enough for every step."""
        if self._live is None or self._estimate is None:
            return
        self._estimate.step_in_epoch = step_in_epoch
        self._loss = self._loss if loss is None else loss
        if self._clock() - self._drawn >= _REFRESH_S:
            self._draw()

    def epoch(self, record: Mapping[str, Any]) -> None:
        if not self._enabled or self._estimate is None:
            return
        self._record = record
        self._loss = record.get("train_loss")
        self._estimate.epoch_done(record["epoch"])
        for seed in record.get("seeds", ()):
            self._seeds.setdefault(seed_name(seed), {}).update(seed)
        self._draw()
        self._print(_epoch_line(record, self._estimate))

    def event(self, event: Event) -> None:
        if not self._enabled:
            return
        if event.name == EventName.SEED_STAGE:
            self._move(event.data)
            self._draw()
        line = format_event(event)
        if line is None:
            return
        self._last_event = f"epoch {event.epoch}: {line}"
        self._draw()
        self._print(f"  {self._last_event}")

    def close(self) -> None:
        self._draw()
        self._owned.close()
        self._live = None

    def _move(self, data: Mapping[str, Any]) -> None:
        name = seed_name(data)
        if data["to"] in _REMOVED:
            self._seeds.pop(name, None)
            return
        seed = self._seeds.setdefault(name, {})
        seed |= {"blueprint": data["blueprint"], "stage": data["to"]}
        seed["alpha"] = 1.0 if data["to"] in _WHOLE else seed.get("alpha", 0.0)

    def _print(self, line: str) -> None:
        if self._live is not None:
            return
        try:
            self._console.print(Text(line), soft_wrap=True)
        except (SystemExit, OSError):
            # So rich ends the process where the reader of a pipe has gone; a run does not end for that.
            self._enabled = False

    def _draw(self) -> None:
        if self._live is not None:
            self._live.refresh()
            self._drawn = self._clock()

    def _render(self) -> RenderableType:
        if self._estimate is None:
            return ""
        lines = [
            self._estimate.position(),
            _results(self._loss, self._record),
            self._estimate.throughput_and_eta(),
        ]
        parts: list[RenderableType] = [_line(line) for line in lines]
        bar = Table.grid(expand=True)  # a bar alone ends its line only where colours show its whole length
        bar.add_row(RichBar(total=self._estimate.steps, completed=self._estimate.done))
        parts.insert(1, bar)
        if self._seeds:
            parts.append(_seed_table(self._seeds, self._console.width))
        if self._last_event:
            parts.append(_line(self._last_event, style="dim"))
        return Group(*parts)


class _ProgressEstimate:
    """Where a run is, how fast it goes and how long it will take."""

    def __init__(self, info: RunInfo, clock: Callable[[], float]) -> None:
        self._info = info
        self._clock = clock
        self._begun = clock()
        self._epochs = info.start_step // max(1, info.steps_per_epoch)
        self.step_in_epoch = info.start_step - self._epochs * info.steps_per_epoch
        self.steps = info.max_epochs * info.steps_per_epoch

    @property
    def done(self) -> int:
        return self._epochs * self._info.steps_per_epoch + self.step_in_epoch

    def epoch_done(self, epoch: int) -> None:
        self._epochs = epoch
        self.step_in_epoch = 0

    def position(self) -> str:
        epoch = min(self._epochs + 1, self._info.max_epochs)
        return f"epoch {epoch}/{self._info.max_epochs}  step {self.done}/{self.steps}"

    def throughput_and_eta(self) -> str:
        """Return samples a second (over the whole of this session, validation included) and time left."""
        elapsed = self._clock() - self._begun
        steps = self.done - self._info.start_step
        if elapsed <= 0 or steps <= 0:
            return ""
        samples = self._info.samples_per_epoch / max(1, self._info.steps_per_epoch) * steps / elapsed
        return f"{samples:,.0f} samples/s  {duration((self.steps - self.done) * elapsed / steps)} left"

    def epoch_label(self, epoch: int) -> str:
        total = str(self._info.max_epochs)
        return f"epoch {epoch:>{len(total)}}/{total}"


def _epoch_line(record: Mapping[str, Any], estimate: _ProgressEstimate) -> str:
    parts = [
        estimate.epoch_label(record["epoch"]),
        f"train {decimal(record.get('train_loss'))} {percent(record.get('train_accuracy'))}",
        f"val {decimal(record.get('val_loss'))} {percent(record.get('val_accuracy'))}",
        f"seeds {record.get('active_seeds', 0)}",
        f"params {record.get('params', 0):,}",
        estimate.throughput_and_eta(),
    ]
    return "  ".join(part for part in parts if part)


def _results(loss: float | None, record: Mapping[str, Any]) -> str:
    validation = f"val {decimal(record.get('val_loss'))} {percent(record.get('val_accuracy'))}"
    return f"loss {decimal(loss)}  {validation if record else ''}"


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _seed_table(seeds: Mapping[str, Mapping[str, Any]], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("seed", "blueprint", "stage"):
        table.add_column(header, no_wrap=True, overflow="ellipsis")
    table.add_column("alpha", justify="right", no_wrap=True)
    width_left = max(8, width - 32)  # what the other three columns and their gaps leave
    for name, seed in list(seeds.items())[:_SEED_ROWS]:
        short = name if len(name) <= width_left else "…" + name[1 - width_left :]
        alpha = seed.get("alpha")
        shown = "-" if alpha is None else f"{alpha:.2f}"
        table.add_row(short, str(seed.get("blueprint") or "-"), str(seed.get("stage", "-")), shown)
    if len(seeds) > _SEED_ROWS:
        table.add_row(f"and {len(seeds) - _SEED_ROWS} more", "", "", "")
    return table
