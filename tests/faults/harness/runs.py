"""The growing run that is killed: its command line, its progress and its results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from faults.harness.memory import remembered, timeless
from safetensors import safe_open

from esper.errors import CheckpointError
from esper.leyline import CLOCK_METRICS
from esper.tolaria.checkpoint import find_checkpoint, load_checkpoint
from esper.tolaria.checkpoint.format import read_state

# Some two seconds of training, in which seeds of two blueprints pass through every stage; `auto` is the same
# command for a first process and for every later one. The random policy has a generator in its memory.
GROWING = (
    *("optimization.max_epochs=8", "trainer.limit_train_batches=12", "trainer.limit_val_batches=2"),
    *("morphogenetic/policy=random", "morphogenetic.policy.max_seeds=4", "morphogenetic.policy.latest=0.8"),
    *("morphogenetic.decision_interval_steps=6", "morphogenetic.blueprints=[conv_light,noise]"),
    *("morphogenetic.seed.isolation_steps=10", "morphogenetic.seed.blend_steps=16"),
    *("morphogenetic.seed.embargo_epochs=1", "+model.model_params.widths=[4,8,8]"),
    *("checkpoint.checkpoint_frequency=1", "checkpoint.resume_from_checkpoint=auto"),
    *("logging.progress=false", "seed=9"),  # with which seeds of every stage live long enough to be met
)
# What a resumed run says otherwise than one that was never stopped, and may.
_PER_PROCESS_FIELDS = CLOCK_METRICS | {"run_dir", "resumed_from"}
# Events that each process adds, and saves, whose step depends on when the thread that writes them is done.
_PER_PROCESS_EVENTS = {"run_started", "run_resumed", "option_idle", "notice", "checkpoint_saved"}


def command(folder: Path, *options: str) -> tuple[str, ...]:
    """The command line of the run in `folder`."""
    return (*GROWING, *options, f"hydra.run.dir={folder}")


def ending(folder: Path) -> dict[str, Any]:
    """What a run leaves, but for the clock: events, epochs, summary, hash of the weights, last checkpoint."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        "events.jsonl": [
            _timeless_event(event) for event in events(folder) if event["name"] not in _PER_PROCESS_EVENTS
        ],
        "metrics.jsonl": [_timeless(json.loads(line)) for line in lines],
        "summary.json": _timeless(json.loads((folder / "summary.json").read_text())),
        "weights": weights_hash(folder / "models" / "final_model.safetensors"),
        "memory": _memory(folder),
    }


def differences(folder: Path, expected: dict[str, Any]) -> list[str]:
    """How the run in `folder` ended otherwise than expected, in sentences that name the folder."""
    try:
        found = ending(folder)
    except (FileNotFoundError, CheckpointError) as error:
        return [f"{folder.name}: {error}"]
    return [
        f"{folder.name}: {name} differs: {_first(found[name], expected[name])}"
        for name in expected
        if found[name] != expected[name]
    ]


def weights_hash(path: Path) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of the tensors in a file."""
    digest = hashlib.sha256()
    with safe_open(path, framework="np") as file:
        for name in sorted(file.keys()):
            array = file.get_tensor(name)
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def events(folder: Path, since_s: float = 0.0) -> list[dict[str, Any]]:
    """The whole lines of events.jsonl that were written after that time; a resumed run has cut others off."""
    try:
        text = (folder / "events.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [event for line in text.split("\n")[:-1] if (event := json.loads(line))["time"] >= since_s]


def epochs_over(folder: Path) -> int:
    """How many epochs of a run are over."""
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def saved_step(folder: Path) -> int | None:
    """The step of the newest checkpoint of a run; None where there is none."""
    try:
        state = read_state(find_checkpoint(folder).path)["state"]
    except CheckpointError:
        return None
    return int(state["run"]["progress"]["step"])


def stages(folder: Path) -> dict[str, str]:
    """The stage of each slot that ever had a seed, from the events."""
    moves = (event["data"] for event in events(folder) if event["name"] == "seed_stage")
    return {f"{move['layer']}[{move['seed']}]": move["to"] for move in moves}


def _memory(folder: Path) -> dict[str, Any]:
    """Everything in the last checkpoint."""
    last = load_checkpoint(find_checkpoint(folder).path)
    return remembered(last.tensors, last.state["owners"])


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in _PER_PROCESS_FIELDS}
    return {name: _timeless(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _timeless_event(event: dict[str, Any]) -> dict[str, Any]:
    named = {name: value for name, value in event.items() if name not in ("time", "data")}
    return named | {"data": timeless(event["data"])}


def _first(found: Any, expected: Any) -> str:
    if isinstance(found, list):
        pairs = zip(found, expected, strict=False)
        number = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))
        return f"line {number + 1} of {len(found)}, {len(expected)} expected"
    if isinstance(found, dict):
        return ", ".join(sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)))
    return f"{found!r:.20}"
