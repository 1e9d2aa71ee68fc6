"""R20: two runs on one folder."""

from __future__ import annotations

from faults.harness.commands import of_command
from faults.harness.locks import rivalries
from faults.harness.row import Control, Row

_UNLOCKED = of_command(rivalries, "r20:lock_always_succeeds")

ROWS = {
    "R20": Row(
        *(5, 20, of_command(rivalries)),
        [Control("lock_always_succeeds", _UNLOCKED, "the second run ended with 0")],
    )
}
