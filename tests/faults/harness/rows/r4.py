"""R4: SIGTERM and SIGINT at random."""

from __future__ import annotations

from faults.harness.commands import of_command
from faults.harness.revival import stoppings
from faults.harness.row import Control, Row

ROWS = {
    "R4": Row(
        *(5, 50, of_command(stoppings)),
        [Control("no_final_save", of_command(stoppings, "r4:no_final_save"), "its last step is", 2)],
    )
}
