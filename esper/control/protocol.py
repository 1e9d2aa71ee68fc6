"""The protocol: one request, one reply, each a JSON object in a line.

`{"command": "pause"}` is answered by `{"ok": true, "result": {...}}` or `{"ok": false, "error": "..."}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from esper.utils.bounded_read import parse_object

COMMANDS = ("status", "pause", "resume", "stop", "checkpoint")

REQUEST_LIMIT_BYTES = 4096
REPLY_LIMIT_BYTES = 4 << 20  # the status of a run with some ten thousand seeds


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The object in a line; raises `ValueError` for anything else."""
    return parse_object(line)
