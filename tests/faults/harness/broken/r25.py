"""Broken builds for R25: readers that trust names, and a writer that lets half a file be seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from faults.harness.firing import broken

from esper.control import offline
from esper.tolaria.checkpoint import discovery
from esper.tolaria.checkpoint import format as checkpoint_format
from esper.tolaria.checkpoint.format import Checkpoint, CheckpointEntry, check_checkpoint
from esper.utils import files as files_module
from esper.utils import safetensors
from esper.utils.files import Content, Files

_PAUSE_S = 0.005  # as a disk takes it that is busy


def one_look() -> AbstractContextManager[None]:
    """A checkpoint that has gone is a bad one; the folder is not looked through again."""

    def at_once(path: Path, read: Callable[[Path], Any]) -> Any:
        return read(path)

    return broken(discovery, "_read_unchanged", at_once)


def names_opened_twice() -> AbstractContextManager[None]:
    """What was verified by its name is read by its name once more."""

    def load(path: Path) -> Checkpoint:
        state = check_checkpoint(path)["state"]
        files = sorted(path.glob("*.safetensors"))
        return Checkpoint(path, state, {f.stem: safetensors.load_tensors(f)[0] for f in files})

    return broken(discovery, "load_checkpoint", load)


def oldest_first() -> AbstractContextManager[None]:
    """The order of the saves is that of what they are called, backwards."""
    found = discovery.list_checkpoints

    def reversed_list(folder: Path) -> tuple[list[CheckpointEntry], list[str]]:
        entries, problems = found(folder)
        return entries[::-1], problems

    return broken(discovery, "list_checkpoints", reversed_list)


def errors_of_the_system() -> AbstractContextManager[None]:
    """A file that has gone is whatever the system calls it."""
    return broken(checkpoint_format, "read_bounded", lambda path, _: path.read_bytes())


def final_model_in_place() -> AbstractContextManager[None]:
    """A single file is written where it is to stand, one part after the other."""
    write_atomic = files_module.write_atomic

    def write(path: Path, content: Content, *, io: Files = files_module.FILES) -> None:
        whole = path.with_suffix(".whole")
        write_atomic(whole, content, io=io)
        raw = whole.read_bytes()
        with path.open("wb", buffering=0) as file:
            file.write(raw[: len(raw) // 2])
            time.sleep(_PAUSE_S)
            file.write(raw[len(raw) // 2 :])

    return broken(safetensors, "write_atomic", write)


@contextmanager
def torn_line_read() -> Iterator[None]:
    """The last line of a file is one, however much of it is there."""

    def lines(path: Path) -> Iterator[dict[str, Any]]:
        text = path.read_bytes() if path.exists() else b""
        return iter([json.loads(line) for line in reversed(text.splitlines())])

    with broken(offline, "_lines_backwards", lines):
        yield
