"""The long tier of the fault suite: `scripts/fault_suite --rows R1,R5 --hours 2 --out table.md`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from faults.harness.bench import Bench
from faults.harness.fault_counts import Found, table
from faults.harness.registry import ROWS
from faults.harness.row import SEED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows and their controls, print the table.

    Returns:
        0 where all rows passed, 1 where one did not or fewer faults fired than asked, 2 for an unknown row.
    """
    given = _arguments(argv)
    names = [name.strip() for name in given.rows.split(",")]
    if unknown := [name for name in names if name not in ROWS]:
        print(f"there is no row {', '.join(unknown)}; expected some of {', '.join(ROWS)}", file=sys.stderr)
        return 2
    _heed_signals()
    until_s = None if given.hours is None else time.monotonic() + 3600 * given.hours
    found: list[Found] = []
    with ExitStack() as owned:
        folder = Path(
            owned.enter_context(tempfile.TemporaryDirectory(prefix="esper-fault-suite-", dir=given.dir))
        )
        bench = Bench(folder, owned)
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found.append(ROWS[name].found(bench, given.seed, until_s, given.fast))
            text = f"seed {given.seed}\n\n{table(found)}\n"
            if given.out is not None:
                given.out.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(row.verdict == "pass" for row in found) else 1


def _heed_signals() -> None:
    """Restore what `nohup` and `&` in a script have ignored: each process started here would inherit it."""
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fault_suite", description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument(
        "--hours", type=float, help="no new fault is tried after so long; no limit by default"
    )
    parser.add_argument("--out", type=Path, help="also write the table here, after each row")
    parser.add_argument("--seed", type=int, default=SEED, help="of all that is drawn")
    parser.add_argument("--fast", action="store_true", help="as often as the tests do")
    parser.add_argument("--dir", type=Path, help="where to work; the folder for temporary files by default")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
