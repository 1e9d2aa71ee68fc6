"""Seeds of independent random streams: each a function of the run's seed and of what it is for. No torch."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """63 bits that depend on all parts and their order; equal on every machine and Python."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
