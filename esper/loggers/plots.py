"""The plot of a run: accuracy, parameters and the seeds' stages over the epochs."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from esper.errors import RecordError
from esper.leyline import SeedStage
from esper.loggers.jsonl_reader import METRICS_FILE, read_jsonl, read_param_counts, read_stage_changes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#22303c"
_TRAIN, _VAL, _PARAMS = "#9db2c4", "#1f6f8b", "#6c5b7b"
_STAGE_COLOURS = {
    SeedStage.GERMINATED: "#d9e4b4",
    SeedStage.TRAINING: "#f2c14e",
    SeedStage.BLENDING: "#f08a4b",
    SeedStage.PROBATIONARY: "#7fb685",
    SeedStage.FOSSILIZED: "#2f6b4f",
    SeedStage.CULLED: "#b23a48",
    SeedStage.EMBARGOED: "#d8d8d8",
}


class Span(NamedTuple):
    """One stage of one seed; `begin` and `end` in epochs, whole where an epoch ends."""

    stage: SeedStage
    begin: float
    end: float


def plot_run(run_dir: Path) -> Path:
    """Draw `run_dir`'s metrics.jsonl and events.jsonl as run.png beside them, and return its path.

    Raises `RecordError` where there is no epoch to draw.
    """
    path = run_dir / "run.png"
    with _font_cache():
        figure_of(run_dir).savefig(path, dpi=150)
    return path


def figure_of(run_dir: Path) -> Figure:
    """Return the same as a matplotlib figure, which no window or file belongs to. Raises `RecordError`."""
    records = list(read_jsonl(run_dir / METRICS_FILE, skip_damaged=True))
    if not records:
        raise RecordError(f"{run_dir / METRICS_FILE} holds no epoch; a plot needs at least one")
    with _font_cache():
        return _draw(records, stage_spans(read_stage_changes(run_dir), records), read_param_counts(run_dir))


def stage_spans(
    moves: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> dict[str, list[Span]]:
    """Return each seed's stages in chronological order, by `<layer>[<seed>] <blueprint>`.

    A step's place between two epochs is interpolated from the records. Dormant slots have no span.
    """
    end = float(records[-1]["epoch"])
    spans: dict[str, list[Span]] = {}
    alive: dict[tuple[str, int], str] = {}
    for move in moves:
        slot = (move["layer"], move["seed"])
        place = min(end, _place(move["step"], records))
        if move["from"] == SeedStage.DORMANT:
            alive[slot] = _row(move, spans)
        row = spans.setdefault(alive.setdefault(slot, _row(move, spans)), [])
        if row:
            row[-1] = row[-1]._replace(end=place)
        if move["to"] != SeedStage.DORMANT:
            row.append(Span(SeedStage(move["to"]), place, end))
    return spans


def _row(move: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    """Return the name of a seed's row; a later seed in the same slot gets a row of its own."""
    name = f"{move['layer']}[{move['seed']}] {move['blueprint']}"
    while name in taken:
        name += "'"
    return name


def _place(step: int, records: Sequence[Mapping[str, Any]]) -> float:
    """Return where `step` lies in epochs, between the two epochs around it."""
    left_step, left = 0, 0.0
    for record in records:
        if step <= record["step"]:
            share = (step - left_step) / max(1, record["step"] - left_step)
            return float(left + share * (record["epoch"] - left))
        left_step, left = record["step"], record["epoch"]
    return left


def _draw(
    records: Sequence[Mapping[str, Any]],
    spans: Mapping[str, Sequence[Span]],
    sizes: Sequence[tuple[int, int]],
) -> Figure:
    rows = max(1, len(spans))
    heights = [3.2, 1.6, 0.5 + 0.28 * rows]
    figure = _new_figure(9, 1.4 + sum(heights))
    quality, size, life = figure.subplots(3, 1, sharex=True, height_ratios=heights)
    _quality(quality, records)
    _params(size, records, sizes)
    _timeline(life, spans)
    _mark_blending(quality, spans)
    for axes in (quality, size, life):
        _style_axes(axes)
    life.set_xlabel("epoch", color=_INK)
    life.set_xlim(0, records[-1]["epoch"])
    return figure


def _new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that belongs to no window; a notebook shows it as an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class RunFigure(Figure):
        def _repr_png_(self) -> bytes:
            """What IPython displays where matplotlib's own display is not set up, as it is by pyplot."""
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    figure = RunFigure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _quality(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """Draw accuracy, or loss where the task has no accuracy."""
    has_accuracy = any(record.get("val_accuracy") is not None for record in records)
    kind, factor = ("accuracy", 100.0) if has_accuracy else ("loss", 1.0)
    for split, name, colour in (("train", "training", _TRAIN), ("val", "validation", _VAL)):
        points = [
            (r["epoch"], factor * r[f"{split}_{kind}"]) for r in records if _known(r, f"{split}_{kind}")
        ]
        if points:
            label = f"{name} {points[-1][1]:.4g}"
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, label=label, marker=_dot(points))
    axes.set_title(f"{kind}, %" if has_accuracy else kind)
    axes.legend(frameon=False, loc="best", labelcolor=_INK)


def _params(axes: Axes, records: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> None:
    """Draw the parameters where they changed, and up to the last epoch."""
    points = [(_place(step, records), count) for step, count in sizes]
    points += [(record["epoch"], record["params"]) for record in records if _known(record, "params")]
    if points:
        points.sort(key=lambda point: point[0])
        epochs, counts = zip(*points, strict=True)
        axes.step(epochs, counts, where="post", color=_PARAMS, linewidth=2, marker=_dot(points))
        axes.fill_between(epochs, counts, step="post", color=_PARAMS, alpha=0.12, linewidth=0)
        axes.set_ylim(0, 1.15 * max(counts))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_title(f"parameters: {counts[0]:,} to {counts[-1]:,}")


def _timeline(axes: Axes, spans: Mapping[str, Sequence[Span]]) -> None:
    from matplotlib.patches import Patch

    for row, stages in enumerate(spans.values()):
        for stage, begin, end in stages:
            bar = [(begin, max(end - begin, 0.0))]
            axes.broken_barh(bar, (row - 0.36, 0.72), facecolors=_STAGE_COLOURS[stage], linewidth=0)
            if stage == SeedStage.CULLED:  # often left in the same step: a bar of no width
                colour = _STAGE_COLOURS[stage]
                axes.plot(
                    begin, row, "X", color=colour, markeredgecolor="white", markersize=11, clip_on=False
                )
    axes.set_yticks(range(len(spans)), labels=list(spans), fontsize=8)
    axes.set_ylim(max(1, len(spans)) - 0.4, -0.6)
    axes.set_title("seeds" if spans else "seeds: none grew")
    shown = {span.stage for stages in spans.values() for span in stages}
    keys = [
        Patch(color=colour, label=str(stage)) for stage, colour in _STAGE_COLOURS.items() if stage in shown
    ]
    if keys:
        axes.legend(
            handles=keys,
            ncols=len(keys),
            frameon=False,
            fontsize=8,
            labelcolor=_INK,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            borderaxespad=0,
            handlelength=1,
            columnspacing=1,
        )


def _mark_blending(axes: Axes, spans: Mapping[str, Sequence[Span]]) -> None:
    """Mark in the curves where a seed begins to reach the host."""
    for stages in spans.values():
        for span in stages:
            if span.stage == SeedStage.BLENDING:
                axes.axvline(span.begin, color=_STAGE_COLOURS[span.stage], linewidth=1, linestyle=(0, (3, 3)))


def _style_axes(axes: Axes) -> None:
    axes.title.set(fontsize=10, color=_INK)
    axes.set_title(axes.get_title(), loc="left", fontsize=10, color=_INK)
    axes.title.set_text("")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8c2cb")
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(axis="both", color="#e6ebef", linewidth=0.8)
    axes.set_axisbelow(True)


def _known(record: Mapping[str, Any], name: str) -> bool:
    return record.get(name) is not None


def _dot(points: Sequence[Any]) -> str:
    return "o" if len(points) == 1 else ""


@contextmanager
def _font_cache() -> Iterator[None]:
    """Keep matplotlib's font cache out of the home folder of a user who has none there yet."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    configs = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    used = any((folder / "matplotlib").exists() for folder in (caches, configs))
    if "MPLCONFIGDIR" in os.environ or used:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]
