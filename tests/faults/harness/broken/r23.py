"""Broken builds for R23: checkpoints that are overlooked, and work that is thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from faults.harness.firing import broken, replaced

from esper.config import TolariaConfig
from esper.runs import checkpoint_folder as storage
from esper.runs import job, resume
from esper.tolaria.checkpoint import checkpoint_folder


def own_by_path() -> AbstractContextManager[None]:
    """A checkpoint is the run's own where its resolved path begins with the run folder's."""

    def contained(checkpoint: Path, run_dir: Path, _: TolariaConfig) -> bool:
        return run_dir.resolve() in checkpoint.resolve().parents

    return broken(resume, "is_own", contained)


def links_not_followed() -> AbstractContextManager[None]:
    """A link is no folder of checkpoints."""
    find = storage.folder_with_checkpoints

    def without_links(run_dir: Path, config: TolariaConfig) -> Path | None:
        return None if checkpoint_folder(run_dir).is_symlink() else find(run_dir, config)

    return broken(resume, "folder_with_checkpoints", without_links)


def begins_anew() -> AbstractContextManager[None]:
    """Where there is no checkpoint, there was none."""
    return broken(resume, "refuse_lost", lambda *_: None)


@contextmanager
def trains_without_saving() -> Iterator[None]:
    """Whether anything can be saved is not looked at before the first save."""
    nothing = lambda *_, **__: None  # noqa: E731
    with broken(resume, "refuse_unwritable", nothing), replaced(job, "claim", nothing):
        yield


def reason_not_said() -> AbstractContextManager[None]:
    """It is refused without a word about the link that leads nowhere."""
    return broken(storage, "why_missing", lambda _: "")


def target_made() -> AbstractContextManager[None]:
    """A link that leads nowhere gets an empty folder to lead to."""

    def make(run_dir: Path, _: TolariaConfig) -> None:
        checkpoint_folder(run_dir).resolve().mkdir(parents=True)

    return broken(resume, "refuse_lost", make)
