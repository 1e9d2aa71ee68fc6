"""The table at the end of a run: its results, and the history of each seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from esper.loggers.formatting import decimal, duration, percent, seed_name
from esper.utils.stdout import print_flushed


def build_summary_table(summary: Mapping[str, Any]) -> Table:
    """Return the summary as a table of two columns, readable from 40 columns on and in a file."""
    title = Text(str(summary.get("session_name", "esper")), style="bold")
    table = Table(box=None, show_header=False, pad_edge=False, title=title, title_justify="left")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _rows(summary):
        table.add_row(label, Text(text))
    for seed in summary.get("seeds", ()):
        table.add_row("seed", Text("\n".join(_seed_lines(seed))))
    if not summary.get("seeds"):
        table.add_row("seeds", "none grew")
    return table


def print_summary_table(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the table; into a file or a pipe without blanks at the ends of its lines."""
    with console.capture() as captured:
        console.print(build_summary_table(summary))
    lines = captured.get().splitlines()
    plain = lines if console.is_terminal else [line.rstrip() for line in lines]
    if plain:  # a quiet console has nothing
        print_flushed("\n".join(plain), cast("TextIO", console.file))


def _rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for split, label in (("test", "test"), ("val", "validation")):
        accuracy, loss = summary.get(f"{split}_accuracy"), summary.get(f"{split}_loss")
        shown = "" if accuracy is None else f"accuracy {percent(accuracy)}, "
        if loss is not None or accuracy is not None:
            yield label, f"{shown}loss {decimal(loss)}"
    yield "parameters", _growth(summary["params_host"], summary["params_final"])
    best = f", the best is {summary['best_epoch']}" if summary.get("best_epoch") else ""
    end = f"; ended by {summary['stopped_by']}" if summary.get("stopped_by") else ""
    yield "epochs", f"{summary['epochs_run']}{best}{end} after {duration(summary['wall_s'])}"
    if summary.get("reason"):
        yield "halted", str(summary["reason"])
    if summary.get("unsaved"):
        yield "not saved", "\n".join(summary["unsaved"])
    counted = summary.get("adaptations")
    if counted:
        counts = f"{counted['proposed']} proposed, {counted['applied']} applied, {counted['refused']} refused"
        yield "adaptations", counts


def _growth(before: int, after: int) -> str:
    ratio = f" (x{after / before:.2f})" if before else ""
    return f"{before:,} before, {after:,} after{ratio}"


def _seed_lines(seed: Mapping[str, Any]) -> Iterator[str]:
    yield f"{seed_name(seed)}: {seed['blueprint']}, {seed['params']:,} parameters, {seed['stage']}"
    steps = {"germinated": "germinated", "blended": "joined", "fossilized": "fossilized", "culled": "culled"}
    found = [(word, seed.get(f"{step}_epoch")) for step, word in steps.items()]
    dates = [f"{word} in {epoch}" for word, epoch in found if epoch is not None]
    if dates:
        yield "epochs: " + ", ".join(dates)
    if seed.get("impact") is not None:
        yield _impact(seed["impact"])
    if seed.get("reason"):
        yield f"why: {seed['reason']}"


def _impact(impact: Mapping[str, Any]) -> str:
    gain = impact["loss_gain"]
    side = "lower" if gain >= 0 else "higher"
    over = "" if impact.get("error_over", "samples") == "samples" else f" over {impact['error_over']}"
    loss = f"loss {abs(gain):.4f} +- {impact['loss_gain_error']:.4f}{over} {side} with it"
    accuracy = impact.get("accuracy_gain")
    return loss if accuracy is None else f"{loss}, accuracy {100 * accuracy:+.1f} points"
