"""R2: SIGKILL of the command, then resume: once each, and many times in a row."""

from __future__ import annotations

from faults.harness.commands import of_command
from faults.harness.revival import chain, killings
from faults.harness.row import Control, Row

_FORGOTTEN = "r2:control_state_forgotten"

ROWS = {
    "R2": Row(
        *(5, 100, of_command(killings)),
        [Control("control_state_forgotten", of_command(killings, _FORGOTTEN), "metrics.jsonl differs", 2)],
    ),
    "R2-chain": Row(
        *(5, 20, of_command(chain)),
        [Control("control_state_forgotten", of_command(chain, _FORGOTTEN), "metrics.jsonl differs", 3)],
    ),
}
