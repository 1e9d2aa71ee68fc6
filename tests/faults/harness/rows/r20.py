"""R20: two runs on one folder."""

from __future__ import annotations

from faults.harness.commands import of_command
from faults.harness.locks import rivalries
from faults.harness.row import Control, Row


def _rivals(name: str, symptom: str, tries: int = 1, *, fast: bool = False) -> Control:
    return Control(name, of_command(rivalries, f"r20:{name}"), symptom, tries, fast)


ROWS = {
    "R20": Row(
        *(5, 20, of_command(rivalries)),
        [
            _rivals("lock_always_succeeds", "the second run ended with 0"),
            _rivals("released_at_once", "the second run ended with"),
            _rivals("holder_not_named", "is not named"),
            _rivals("refusal_is_a_success", "the second run ended with 0", fast=True),
            _rivals("dead_holder_kept", "after_a_kill", 3),
        ],
    )
}
