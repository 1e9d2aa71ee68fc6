"""What growth brings on Fashion-MNIST: the real command with Tamiyo on and off, all else equal.

    python scripts/benchmarks/fashion.py [--seeds 0 1 2] [--arms off on noise] [--out FOLDER] [overrides ...]

off     the host alone (convnet of 8, 16, 32 channels)
on      the same recipe with Tamiyo
noise   Tamiyo with a blueprint on offer that is harmful by construction, beside the good ones; every seed
        of it has to be culled

Runs are one thread each and follow one another; a run whose summary lies in FOLDER already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ARMS = {
    "off": ["morphogenetic.tamiyo_enabled=false"],
    "on": ["morphogenetic.tamiyo_enabled=true"],
    "noise": ["morphogenetic.blueprints=[noise,conv_heavy,conv_light,depthwise]"],
}


def run(arm: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """The summary of one run of the real command, made or found."""
    folder = out / f"{arm}-{seed}"
    summary = folder / "summary.json"
    if not summary.is_file():
        command = [
            *(sys.executable, "-m", "esper.train", "dataset=fashion_mnist", "model=convnet"),
            *(f"seed={seed}", "trainer.num_threads=1", f"hydra.run.dir={folder}"),
            *ARMS[arm],
            *overrides,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(summary.read_text())
    return found


def line(arm: str, seed: int, s: dict[str, Any]) -> str:
    seeds = ", ".join(f"{x['layer']} {x['blueprint']} {x['stage']}" for x in s["seeds"]) or "no seeds"
    return (
        f"{arm:6} seed {seed}: test {100 * s['test_accuracy']:.2f} %, val {100 * s['val_accuracy']:.2f} %, "
        f"{s['params_final']:,} parameters ({s['params_final'] / s['params_host']:.2f}x), "
        f"{s['cpu_s']:.0f} CPU s; {seeds}"
    )


def report(arm: str, rows: list[dict[str, Any]]) -> float:
    tests = [100 * s["test_accuracy"] for s in rows]
    spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
    print(f"{arm:6} mean test {statistics.mean(tests):.2f} +- {spread:.2f} %", end="")
    print(f", at most {max(s['params_final'] / s['params_host'] for s in rows):.2f}x the host's parameters")
    return statistics.mean(tests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/fashion"))
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    means = {}
    for arm in args.arms:
        rows = []
        for seed in args.seeds:
            rows.append(run(arm, seed, args.out, args.overrides))
            print(line(arm, seed, rows[-1]), flush=True)
        means[arm] = report(arm, rows)
        if arm == "noise":
            added = [x for s in rows for x in s["seeds"] if x["blueprint"] == "noise"]
            kept = [x for x in added if x["stage"] != "culled"]
            print(f"noise  {len(added)} harmful seeds germinated, {len(added) - len(kept)} culled")
    if {"on", "off"} <= set(means):
        print(f"with Tamiyo {means['on'] - means['off']:+.2f} points")


if __name__ == "__main__":
    main()
