"""Lines on the standard streams, whose reader may go away, as `head` does after ten lines."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def print_flushed(text: str, stream: TextIO | None = None) -> None:
    """Print a text and flush; after the reader has closed the pipe, output is discarded.

    Args:
        text: without a line break at its end.
        stream: standard output where it is None.
    """
    out = sys.stdout if stream is None else stream
    try:
        print(text, file=out, flush=True)
    except BrokenPipeError:
        _redirect_to_devnull(out)


def flush_output() -> None:
    """Write what others have printed; without this the interpreter complains at its end of a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _redirect_to_devnull(stream)


def _redirect_to_devnull(stream: TextIO) -> None:
    """Let the stream write to nowhere: what it still holds is written once more at the interpreter's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
