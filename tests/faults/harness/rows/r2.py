"""R2: SIGKILL of the command, then resume: once each, and many times in a row."""

from __future__ import annotations

from faults.harness.commands import of_command
from faults.harness.revival import chain, killings
from faults.harness.row import Control, Row


def _killed(name: str, symptom: str, *, fast: bool = False) -> Control:
    return Control(name, of_command(killings, f"r2:{name}"), symptom, 2, fast)


def _chained(name: str, symptom: str, tries: int, *, fast: bool = False) -> Control:
    return Control(name, of_command(chain, f"r2:{name}"), symptom, tries, fast)


ROWS = {
    "R2": Row(
        *(5, 100, of_command(killings)),
        [
            _killed("control_state_forgotten", "metrics.jsonl differs"),
            _killed("events_not_cut", "events.jsonl differs", fast=True),
            _killed("optimizers_forgotten", "weights differs"),
            _killed("schedule_forgotten", "memory differs"),
            _killed("generators_forgotten", "memory differs"),
        ],
    ),
    "R2-chain": Row(
        *(5, 20, of_command(chain)),
        [
            _chained("control_state_forgotten", "metrics.jsonl differs", 3, fast=True),
        ],
    ),
}
