"""R4: SIGTERM, SIGINT and SIGHUP at random."""

from __future__ import annotations

from faults.harness.commands import of_command
from faults.harness.revival import stoppings
from faults.harness.row import Control, Row


def _stopped(name: str, symptom: str, tries: int = 2, *, fast: bool = False) -> Control:
    return Control(name, of_command(stoppings, f"r4:{name}"), symptom, tries, fast)


ROWS = {
    "R4": Row(
        *(5, 50, of_command(stoppings)),
        [
            _stopped("no_final_save", "its last step is"),
            _stopped("heeded_at_epoch_end", "steps began after the signal", 3),
            _stopped("exit_code_lost", "it ended with 0", 1, fast=True),
            _stopped("sighup_unhandled", "SIGHUP at", 3),
            _stopped("stopped_an_older_save", "its last step is"),
        ],
    )
}
