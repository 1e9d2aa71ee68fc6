"""Safe reads of paths that may be anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper.utils.bounded_read import parse_object, read_object, read_regular


def test_what_is_no_regular_file_or_too_long_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "long").write_bytes(b"x" * 11)
    for name, message in (
        ("fifo", "not a regular file"),
        (".", "not a regular file"),
        ("long", "longer than 10"),
    ):
        with pytest.raises(OSError, match=message):
            read_regular(tmp_path / name, 10)
    with pytest.raises(ValueError, match="null byte"):
        read_regular(tmp_path / "a\0b")


def test_the_tail_of_a_long_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_regular(tmp_path / "file", 3, tail=True) == b"789"
    assert read_regular(tmp_path / "file", 30, tail=True) == b"0123456789"


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"[" * 200_000, b"\xff", b"null"])
def test_what_is_no_object_is_a_value_error(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_object(text)
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(ValueError):
        read_object(tmp_path / "file")
