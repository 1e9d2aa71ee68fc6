"""What a forked child is not to keep open: with it, a lock or a socket would outlive the run that made it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_open: set[int] = set()


@contextmanager
def closed_in_children(descriptor: int) -> Iterator[None]:
    """Within the block, a child of a fork has the null device in place of this file descriptor.

    Workers of a DataLoader are forked, and may live on for seconds after their parent was killed.
    """
    _open.add(descriptor)
    try:
        yield
    finally:
        _open.discard(descriptor)


def _replace_all() -> None:
    # replaced, not closed: whoever closes it later in the child must not meet another file of that number
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _open:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    _open.clear()


os.register_at_fork(after_in_child=_replace_all)
