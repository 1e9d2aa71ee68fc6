"""One run as one JSON line."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from esper.loggers.jsonl_reader import METRICS_FILE, read_jsonl
from esper.runs.summary import summarize
from growth_arms.arms import GROMO, SWEEP, Spec, arm_hash, sweep_source
from growth_arms.measured import MeasuredJob
from growth_arms.topology import swept

Row = dict[str, Any]
Key = tuple[str, str, int, str]


def key_of(row: Row) -> Key:
    return row["task"], row["arm"], row["seed"], row["hash"]


def read_rows(path: Path) -> list[Row]:
    """All finished runs of a results file, or of a compressed one (`.jsonl.gz`).

    A last line without its end was being written and is left out.
    """
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    return list(read_jsonl(path))


def append_row(path: Path, row: Row) -> None:
    """Add a line; one that was left without its end by a kill goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(f"{json.dumps(row)}\n".encode())


def of_arm(rows: Iterable[Row], arm: str) -> list[Row]:
    return [row for row in rows if row["arm"] == arm]


def perform(spec: Spec) -> Row:
    """Run one spec to its end and read the test set, once, with the model that validation chose."""
    with tempfile.TemporaryDirectory() as folder, Path("/dev/null").open("w") as nowhere:
        console = Console(file=nowhere)
        if spec.arm == GROMO:
            from growth_arms.gromo_tiny import train  # an extra that only this arm needs

            measured = train(spec.config)
        else:
            topology = spec.topology
            if spec.arm == SWEEP:
                topology = tuple(_drawn(spec, Path(folder) / "drawn", console))
            measured = _train(spec, topology, Path(folder) / "run", console)
    head = {"task": spec.task.name, "arm": spec.arm, "seed": spec.seed, "policy": spec.policy}
    return head | {"hash": arm_hash(spec.task, spec.arm, spec.policy)} | measured


def _train(spec: Spec, topology: Sequence[Any], folder: Path, console: Console) -> Row:
    job = MeasuredJob(spec.config, folder, console, topology)
    with job:
        run = job.prepare()
        run.train()
        params_last = run.model.total_params()
        summary = summarize(run, run.test(), params_last)
    curve = [line["val_accuracy"] for line in read_jsonl(folder / METRICS_FILE)]
    return {
        "test": summary["test_accuracy"],
        "val": summary["val_accuracy"],
        "val_curve": curve,
        "params": summary["params_final"],
        "params_last": params_last,
        "param_epochs": summary["param_epochs"],
        "flops": summary["train_flops"],
        "cpu_s": summary["cpu_s"],
        "wall_s": summary["wall_s"],
        "overhead_s": job.stopwatch.seconds,
        "seeds": summary["seeds"],
        "topology": list(topology),
        "versions": summary["versions"],
    }


def _drawn(spec: Spec, folder: Path, console: Console) -> list[dict[str, Any]]:
    with MeasuredJob(sweep_source(spec.task), folder, console) as job:
        growth = job.prepare().growth
        assert growth is not None
        packet = growth.packets.build(step=0, epoch=0, train_loss=0.0, health={})
    task = spec.task
    budget = None if task.max_flops is None else task.max_flops - task.host_flops
    return swept(packet, task.name, spec.seed, budget)


def chosen(rows: Iterable[Row], keys: Iterable[Key]) -> list[Row]:
    """The rows of these keys, the last one where a run was repeated, in the order of the keys."""
    known = {key_of(row): row for row in rows}
    return [known[key] for key in keys if key in known]


def recorded(rows: Iterable[Row], keys: Iterable[Key]) -> list[Row]:
    """The last row of each task, arm and seed, whatever its configuration, in the order of the keys."""
    known = {key_of(row)[:3]: row for row in rows}
    return [known[key[:3]] for key in keys if key[:3] in known]
