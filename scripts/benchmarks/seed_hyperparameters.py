"""Effects of a new seed's hyperparameters: isolation, blending, warm-up, rates and its norm, one at a time.

    python scripts/benchmarks/seed_hyperparameters.py [mlp convnet] [--seeds 10]

The same seed germinates early (after a quarter epoch) and late (after a quarter of the run), with the
defaults and with each variant of them. Printed are the differences of validation accuracy and loss from the
defaults after the last epoch, paired by seed, with the standard error of the mean difference. Digits (8x8),
0.3 of them for validation, one thread; the test set is never read.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from signals import HOSTS, config, prepared

from esper import TolariaConfig

GRAFTS: dict[str, dict[str, Any]] = {
    "mlp": {"layer": "body", "blueprint": "mlp", "placement": "parallel"}
    | {"options": {"hidden": 20, "depth": 2, "norm": True}},
    "convnet": {"layer": "block3", "blueprint": "conv_heavy", "options": {"hidden": 16}},
}
NO_NORM = "no norm inside"
VARIANTS: dict[str, dict[str, Any]] = {
    "the defaults (blend 100, warm-up 100)": {},
    "no blend": {"blend_steps": 0},
    "no warm-up": {"warmup_steps": 0},
    "neither": {"blend_steps": 0, "warmup_steps": 0},
    "blend 300": {"blend_steps": 300},
    "warm-up 300": {"warmup_steps": 300},
    "isolation 50": {"isolation_steps": 50},
    "isolation 50, no blend, no warm-up": {"isolation_steps": 50, "blend_steps": 0, "warmup_steps": 0},
    "rate x3": {"learning_rate_scale": 3.0},
    "rate x3, no warm-up": {"learning_rate_scale": 3.0, "warmup_steps": 0},
    "gated": {"blend_mode": "gated"},
    NO_NORM: {},
}


def composed(host: str, seed: int, variant: str, *, early: bool) -> TolariaConfig:
    graft = dict(GRAFTS[host])
    if variant == NO_NORM:
        graft["options"] = {**graft["options"], "norm": False}
    made = config(host, seed, ())
    per_epoch = _steps_per_epoch(made)
    moment = per_epoch // 4 if early else per_epoch * HOSTS[host]["epochs"] // 4
    data = made.to_dict()
    growth = data["morphogenetic"]
    growth["policy"]["seeds"] = [graft | {"at_step": moment}]
    growth["decision_interval_steps"] = moment
    growth["seed"] |= VARIANTS[variant]
    return TolariaConfig.from_dict(data)


def _steps_per_epoch(made: TolariaConfig) -> int:
    with prepared(made) as run:
        return run.steps_per_epoch


def outcome(host: str, seed: int, variant: str, *, early: bool) -> dict[str, float]:
    """Validation accuracy in percent, and loss, after the last epoch."""
    with prepared(composed(host, seed, variant, early=early)) as run:
        run.train()
        if len(run.model.alive_records()) != 1:
            raise RuntimeError(f"the graft is not there: {run.model.summary()}")
        rows = run.history.rows
        return {"accuracy": 100 * rows["val_accuracy"][-1], "loss": rows["val_loss"][-1]}


def result_line(variant: str, own: list[Mapping[str, float]], base: list[Mapping[str, float]]) -> str:
    """A line of the table: mean difference from the defaults and its standard error."""
    parts = []
    for name, digits in (("accuracy", 2), ("loss", 4)):
        differences = [a[name] - b[name] for a, b in zip(own, base, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        parts.append(f"{statistics.mean(differences):+.{digits}f} +- {error:.{digits}f}")
    return f"  {variant:36} accuracy {parts[0]:16} loss {parts[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("hosts", nargs="*", default=list(GRAFTS))
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 on; two at least")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/seed_hyperparameters.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for host in args.hosts:
        for early in (True, False):
            base: list[Mapping[str, float]] = []
            for variant in VARIANTS:
                if variant == NO_NORM and "norm" not in GRAFTS[host]["options"]:
                    continue
                own = [outcome(host, seed, variant, early=early) for seed in range(args.seeds)]
                with args.out.open("a") as file:
                    file.write(
                        json.dumps({"host": host, "early": early, "variant": variant, "runs": own}) + "\n"
                    )
                if not base:
                    base = list(own)
                    mean = statistics.mean(run["accuracy"] for run in own)
                    print(f"{host}, {'early' if early else 'late'}: {mean:.2f} % by {variant}", flush=True)
                else:
                    print(result_line(variant, list(own), base), flush=True)


if __name__ == "__main__":
    main()
