#!/usr/bin/env python3
"""Records what a few runs come to, bit for bit, and compares a changed tree with the record.

`scripts/golden.py record` before a refactoring, `scripts/golden.py check` after each step of it. Each case is
the real command with one thread: its metrics, without what the clock says, and a hash of the final weights.
Records hold on one machine with one version of torch only, so they lie in `outputs/`, not among the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for any Python: what is imported from there is the standard library's alone

from esper.leyline import CLOCK_METRICS  # noqa: E402

COMMAND = [str(ROOT / ".venv/bin/esper-train"), "trainer.num_threads=1"]
NAN_ONCE = """
import math
from torch import nn

class NanOnce(nn.CrossEntropyLoss):
    calls = 0

    def forward(self, scores, targets):
        NanOnce.calls += self.training
        return super().forward(scores, targets) * (math.nan if NanOnce.calls == 100 else 1.0)
"""

Record = dict[str, Any]


def main() -> int:
    """Record or check all cases; 1 where a case differs, with the first difference of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["record", "check"])
    parser.add_argument("--file", type=Path, default=ROOT / "outputs" / "golden.json")
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="esper-golden-") as folder, ThreadPoolExecutor(2) as pool:
        made = {name: pool.submit(CASES[name], Path(folder, name)) for name in given.cases.split(",")}
        found = {name: future.result() for name, future in made.items()}
    if given.what == "record":
        given.file.parent.mkdir(exist_ok=True)
        given.file.write_text(json.dumps(found, indent=1))
        print(f"recorded {', '.join(found)} in {given.file}")
        return 0
    recorded = json.loads(given.file.read_text())
    differing = {name: difference(recorded[name], found[name]) for name in found}
    for name, text in differing.items():
        print(f"{name}: {text or 'identical'}")
    return 1 if any(differing.values()) else 0


def difference(old: Any, new: Any, where: str = "") -> str:
    """The first place at which two records differ, or nothing."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old.get(key), new.get(key)) for key in sorted({*old, *new})]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(number), *both) for number, both in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new else f"{where} was {old!r}, is {new!r}"
    return next((text for key, *both in pairs if (text := difference(*both, f"{where}/{key}"))), "")


def run(folder: Path, *options: str, runs: str = "run") -> Record:
    """One run, or the jobs of a sweep, to the end."""
    folder.mkdir(exist_ok=True)
    subprocess.run([*COMMAND, *options], cwd=folder, env=environment(folder), check=True, capture_output=True)
    return {str(path.relative_to(folder)): record(path) for path in sorted(folder.glob(runs))}


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def record(run_dir: Path) -> Record:
    """What stays of a run: its metrics without the clock's, and what its final weights hash to."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    metrics = [{key: value for key, value in line.items() if key not in CLOCK_METRICS} for line in lines]
    models = sorted(run_dir.glob("models/*.safetensors"))
    assert models, f"{run_dir} holds no model"
    return {
        "metrics": metrics,
        "models": {path.name: weights(path) for path in models},
    }


def weights(file: Path) -> str:
    """A hash of names and bytes of all tensors, without the file's metadata."""
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    digest = hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        begin, stop = header[name]["data_offsets"]
        digest.update(f"{name} {header[name]['dtype']} {header[name]['shape']}".encode())
        digest.update(raw[end + begin : end + stop])
    return digest.hexdigest()


def default(folder: Path) -> Record:
    """The command as it is."""
    return run(folder, "hydra.run.dir=run")


def pcgrad(folder: Path) -> Record:
    """Gradients of micro-batches projected by PCGrad."""
    options = ("trainer.aggregation=pcgrad", "optimization.accumulation_steps=4", "optimization.max_epochs=6")
    return run(folder, *options, "hydra.run.dir=run")


def rollback(folder: Path) -> Record:
    """A loss that is NaN once, and the way back from it."""
    folder.mkdir()
    (folder / "nan_once.py").write_text(NAN_ONCE)
    options = ("allowed_targets=[nan_once]", "optimization.loss_function=nan_once.NanOnce")
    found = run(folder, *options, "optimization.max_epochs=8", "hydra.run.dir=run")
    events = (folder / "run" / "events.jsonl").read_text()
    assert '"tolaria.rollback.restored"' in events, "nothing was rolled back"
    return found


def resumed(folder: Path) -> Record:
    """A run killed after its third epoch and taken up again."""
    folder.mkdir()
    options = ("run_dir=run", "optimization.max_epochs=10", "checkpoint.checkpoint_frequency=2")
    again = "checkpoint.resume_from_checkpoint=auto"
    process = subprocess.Popen(
        [*COMMAND, *options, again], cwd=folder, env=environment(folder), stdout=-3, stderr=-3
    )
    metrics = folder / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9, "the run ended before it was killed"
    return run(folder, *options, again)


def sweep(folder: Path) -> Record:
    """Two seeds by one command."""
    return run(
        folder, "-m", "seed=1,2", "optimization.max_epochs=5", "hydra.sweep.dir=sweep", runs="sweep/[01]"
    )


CASES: dict[str, Callable[[Path], Record]] = {
    case.__name__: case for case in (default, pcgrad, rollback, resumed, sweep)
}

if __name__ == "__main__":
    sys.exit(main())
