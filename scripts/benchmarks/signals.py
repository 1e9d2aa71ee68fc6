"""How well each signal predicts the gain of a seed: rank correlations with the gain that was measured.

    python scripts/benchmarks/signals.py [mlp convnet ...] [--seeds 0 1 2] [--candidates 12] [--steps 20 60]

For each seed a host is trained for one epoch; there every candidate (drawn evenly over layers, blueprints
and sizes) is scored by every signal. Then each germinates in a separate run, at that moment, and is trained
to the end: its gain is the validation loss of the same run without growth minus its own. Spearman's rank
correlation of signal and gain is taken within each seed and averaged; the parameter count is the baseline
that a signal has to beat. The same is done for candidates of nearly equal size. Digits (8x8), one thread,
validation data only.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scores import score

from esper import TolariaConfig
from esper.leyline import AdaptationCommand, Candidate, CommandKind, SiteState
from esper.runs.checked_run import check
from esper.runs.context import RunContext
from esper.runs.job import Job
from esper.tolaria.growth import DataPosition, Lookahead, copy_with_seed
from esper.tolaria.loop import TrainingLoop

HOSTS: dict[str, dict[str, Any]] = {
    "mlp": {
        "model": {"architecture": "mlp", "target_layers": [".", "body", "body.fc*"]}
        | {"model_params": {"hidden": [4, 4]}},
        "epochs": 20,
        "room": 2000,
    },
    "convnet": {
        "model": {"architecture": "convnet", "target_layers": [".", "block?"]}
        | {"model_params": {"widths": [4, 8, 16]}},
        "epochs": 8,
        "room": 4500,
    },
}
SIZE_BAND = 0.15  # candidates of "nearly equal size" differ by no more than this from one another's middle
LEAST_SHARE = 0.2  # of the budget that they must use: the gain of smaller ones is too small to distinguish
Offer = tuple[SiteState, Candidate]


def config(host: str, seed: int, plan: Sequence[dict[str, Any]]) -> TolariaConfig:
    chosen = HOSTS[host]
    return TolariaConfig.from_dict(
        {
            "seed": seed,
            "model": chosen["model"],
            "dataset": {"name": "digits", "batch_size": 32, "validation_split": 0.3, "test_split": 0.2},
            "optimization": {"optimizer": "adamw", "learning_rate": 3e-3, "max_epochs": chosen["epochs"]}
            | {"early_stopping_patience": 0},
            "morphogenetic": {
                "policy": {"_target_": "scheduled", "judge": "keep", "seeds": list(plan)},
                "max_params_ratio": 99.0,
                "decision_frequency": 1,
                "adaptation_cooldown": 0.0,
            },
            "checkpoint": {"save_checkpoints": False, "save_final_model": False},
            "trainer": {"num_threads": 1},
            "logging": {"progress": False, "log_level": "ERROR"},
        }
    )


@contextmanager
def prepared(made: TolariaConfig) -> Iterator[TrainingLoop]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Path("/dev/null").open("w") as nowhere,
        Job(check(made, Path(folder) / "run"), context=RunContext(console=Console(file=nowhere))) as job,
    ):
        yield job.prepare()


def final_loss(host: str, seed: int, plan: Sequence[dict[str, Any]]) -> float:
    """Validation loss after the last epoch, whatever was best before."""
    with prepared(config(host, seed, plan)) as run:
        run.train()
        return run.history.rows["val_loss"][-1]


def offers_of(run: TrainingLoop, room: int) -> list[Offer]:
    assert run.growth is not None
    packet = run.growth.packets.build(step=run.progress.step, epoch=1, train_loss=1.0, health={})
    return [(s, c) for s in packet.sites for c in s.candidates if 0 < c.params <= room]


def drawn(offers: Sequence[Offer], rng: random.Random, count: int) -> list[Offer]:
    """Layer, blueprint and size drawn evenly, in that order; none twice."""
    found: list[Offer] = []
    for _ in range(100 * count):
        layer = rng.choice(sorted({s.layer for s, _ in offers}))
        blueprint = rng.choice(sorted({c.blueprint for s, c in offers if s.layer == layer}))
        pick = rng.choice([o for o in offers if (o[0].layer, o[1].blueprint) == (layer, blueprint)])
        if pick not in found:
            found.append(pick)
        if len(found) == count:
            break
    return found


def matched(offers: Sequence[Offer], rng: random.Random, count: int, least: float) -> list[Offer]:
    """Candidates of nearly the same size, `least` or more: the band that holds most kinds of them."""

    def band(size: int) -> list[Offer]:
        near = [o for o in offers if abs(o[1].params - size) <= SIZE_BAND * size]
        kinds = {(s.layer, c.blueprint, c.placement): (s, c) for s, c in near}
        return list(kinds.values())

    sizes = [c.params for _, c in offers if c.params >= least]
    best = max(map(band, sizes), key=lambda o: (len(o), min(c.params for _, c in o)))
    return rng.sample(best, min(count, len(best)))


def command_of(offer: Offer) -> AdaptationCommand:
    site, c = offer
    return AdaptationCommand(
        "signal",
        CommandKind.GERMINATE,
        1.0,
        1.0,
        "signal",
        site.layer,
        0,
        c.blueprint,
        c.placement,
        c.options,
    )


def signals_of(
    run: TrainingLoop, offer: Offer, lookahead: Lookahead, steps: Sequence[int]
) -> dict[str, float]:
    """Every signal of one candidate; seconds of CPU stand beside each kind."""
    command = command_of(offer)
    began = time.process_time()
    trial = copy_with_seed(run.model, command, run.progress.step)
    args, _, targets = run.components.batch_adapter(next(iter(run.train_batches.batches(2))))
    found = asdict(score(trial, command, lambda: run.components.loss(trial.forward(*args), targets)))
    found["params"] = float(offer[1].params)
    found["size_class"] = float(int(np.log2(max(1, offer[1].params))))
    found["cpu_scores"] = time.process_time() - began
    place = DataPosition(1, 0, run.progress.step)
    for count in steps:
        began = time.process_time()
        found[f"lookahead_{count}"] = -lookahead.loss_after(command, place, count, 3e-3)
        found[f"cpu_lookahead_{count}"] = time.process_time() - began
    return found


def measure(host: str, seed: int, count: int, steps: Sequence[int], out: Path) -> list[dict[str, Any]]:
    """Signals and gain of every candidate of one seed, each a line in `out`."""
    rng = random.Random(f"{host} {seed}")
    rows = []
    with prepared(config(host, seed, ())) as run:
        run.epoch()
        offers = offers_of(run, HOSTS[host]["room"])
        lookahead = Lookahead(
            run.evaluator, run.train_batches, run.probe, run.components.optimizer, run.cost_meter
        )
        equal = matched(offers, rng, count, HOSTS[host]["room"] * LEAST_SHARE)
        for kind, picks in (("any", drawn(offers, rng, count)), ("matched", equal)):
            for site, c in picks:
                about = {"layer": site.layer, "blueprint": c.blueprint, "placement": c.placement}
                found = signals_of(run, (site, c), lookahead, steps)
                rows.append(
                    {"host": host, "seed": seed, "kind": kind, **about, "options": dict(c.options)} | found
                )
    alone = final_loss(host, seed, ())
    for row in rows:
        keys = ("layer", "blueprint", "placement", "options")
        plan = {key: row[key] for key in keys} | {"at_epoch": 1}
        row["gain"] = alone - final_loss(host, seed, [plan])
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return rows


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side does not vary."""
    x, y = (np.array(_ranks(v)) for v in (a, b))
    spread = float(x.std() * y.std())
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [statistics.mean(i for i, other in enumerate(order) if other == v) for v in values]


def line(name: str, groups: Sequence[Sequence[dict[str, Any]]]) -> str:
    found = [spearman([r[name] for r in group], [r["gain"] for r in group]) for group in groups]
    cpu = statistics.mean(r.get(f"cpu_{name}", r["cpu_scores"]) for group in groups for r in group)
    spread = f"({min(found):+.2f} to {max(found):+.2f})"
    return f"  {name:22} {statistics.mean(found):+.2f}  {spread}  {cpu:6.2f} CPU s"


def names_of(row: dict[str, Any]) -> list[str]:
    """The signals in a row: every number but what was measured of them."""
    numbers = [name for name, value in row.items() if isinstance(value, float) and name != "gain"]
    return [name for name in numbers if not name.startswith("cpu_")]


def report(rows: Sequence[dict[str, Any]]) -> None:
    """A table: signal, mean correlation over the seeds, lowest and highest, CPU seconds a candidate."""
    for host, kind in sorted({(r["host"], r["kind"]) for r in rows}):
        here = [r for r in rows if (r["host"], r["kind"]) == (host, kind)]
        groups = [[r for r in here if r["seed"] == s] for s in sorted({r["seed"] for r in here})]
        print(f"{host}, {kind} size: {len(here)} candidates, {len(groups)} seeds")
        print("\n".join(line(name, groups) for name in names_of(here[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("hosts", nargs="*", default=list(HOSTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 60, 180])
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/signals.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for host in args.hosts:
        for seed in args.seeds:
            rows += measure(host, seed, args.candidates, args.steps, args.out)
    report(rows)


if __name__ == "__main__":
    main()
