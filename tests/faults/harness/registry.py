"""All rows of the fault suite: each file in `rows/` has some of them, in a `ROWS` of its own."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from faults.harness.row import Control, Row


def _collected() -> dict[str, Row]:
    found: dict[str, Row] = {}
    for path in (Path(__file__).parent / "rows").glob("*.py"):
        found |= import_module(f"faults.harness.rows.{path.stem}").ROWS
    return dict(sorted(found.items(), key=lambda item: (int(re.findall(r"\d+", item[0])[0]), item[0])))


ROWS = _collected()
CONTROLS: dict[str, tuple[Row, Control]] = {
    f"{name}: {control.name}": (row, control) for name, row in ROWS.items() for control in row.controls
}
