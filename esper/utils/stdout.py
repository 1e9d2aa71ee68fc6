"""Prints to the standard streams, whose reader may close the pipe, as `head` does."""

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
    """Flush the standard streams; otherwise the interpreter reports a closed pipe when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _redirect_to_devnull(stream)


def _redirect_to_devnull(stream: TextIO) -> None:
    """Discard the rest of the stream, whose buffer is flushed once more when the interpreter exits."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)
