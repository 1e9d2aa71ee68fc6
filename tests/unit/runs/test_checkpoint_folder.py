"""Checkpoints on another disk, behind links, moved, or where nothing can be saved; nothing is deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.command import metrics_of, summary_of
from helpers.folders import AUTO, config, refused, run

import esper
from esper.errors import CheckpointError, ConfigError
from esper.runs.resume import find_origin, origin_problems
from esper.tolaria.checkpoint import find_checkpoint
from esper.utils.lock import LOCK_FILE, FolderLock


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("done") / "run"
    run(folder)
    return folder


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """The same, to be changed, as if it had been killed after its only save."""
    folder = tmp_path / "run"
    shutil.copytree(done, folder)
    (folder / "summary.json").unlink()
    return folder


MORE = {**AUTO, "optimization__max_epochs": 2}


def test_checkpoints_behind_a_link_are_the_runs_own(copy: Path, tmp_path: Path) -> None:
    """It saved to them; now it goes on from them, and with its records."""
    disk = tmp_path / "disk"
    (copy / "checkpoints").rename(disk)
    (copy / "checkpoints").symlink_to(disk)
    assert find_origin(config(**MORE), copy).own
    message = run(copy, **MORE)
    assert message.startswith(f"resumed from {copy / 'checkpoints' / 'epoch-0001'}: epoch 1, step 6\n")
    assert [line["epoch"] for line in metrics_of(copy)] == [1, 2]
    assert sorted(path.name for path in disk.iterdir()) == ["epoch-0001", "epoch-0002"]


def test_a_named_folder_outside_is_the_runs_own_by_whatever_path(copy: Path, tmp_path: Path) -> None:
    """`checkpoint_dir` absolute; the run folder by a link; the checkpoint named by its real path."""
    disk = tmp_path / "disk"
    (copy / "checkpoints").rename(disk)
    (tmp_path / "link").symlink_to(copy)
    given = {"checkpoint__checkpoint_dir": str(disk), "optimization__max_epochs": 2}
    for wanted in ("auto", str(disk), str(disk / "epoch-0001")):
        origin = find_origin(config(checkpoint__resume_from_checkpoint=wanted, **given), tmp_path / "link")
        assert origin.own and origin.path is not None and origin.path.name == "epoch-0001"
    run(tmp_path / "link", **given, **AUTO)
    assert [line["epoch"] for line in metrics_of(copy)] == [1, 2]


def test_a_run_in_a_subfolder_is_another_run(done: Path, tmp_path: Path) -> None:
    """The folder decides that the run writes to, not the path that happens to begin alike."""
    shutil.copytree(done, tmp_path / "group" / "job")
    given = config(checkpoint__resume_from_checkpoint=str(tmp_path / "group" / "job"))
    assert not find_origin(given, tmp_path / "group").own


def test_unfinished_saves_behind_a_link_are_cleared_too(copy: Path, tmp_path: Path) -> None:
    """A kill between the two renames of a save that replaces another: the older one gets its name back."""
    disk = tmp_path / "disk"
    (copy / "checkpoints").rename(disk)
    (copy / "checkpoints").symlink_to(disk)
    shutil.copytree(disk / "epoch-0001", disk / ".tmp-epoch-0002-0123abcd")
    (disk / "epoch-0001").rename(disk / ".old-epoch-0001-0123abcd")
    shutil.copytree(disk / ".tmp-epoch-0002-0123abcd", disk / "epoch-0000")
    assert run(copy, **MORE).startswith(f"resumed from {copy / 'checkpoints' / 'epoch-0001'}")
    assert sorted(path.name for path in disk.iterdir()) == ["epoch-0000", "epoch-0001", "epoch-0002"]


def test_two_runs_do_not_write_to_one_folder_of_checkpoints(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    lock = FolderLock.take(disk)
    with pytest.raises(ConfigError, match=r"disk is in use by process"):
        run(tmp_path / "run", checkpoint__checkpoint_dir=str(disk))
    lock.release()
    run(tmp_path / "run", checkpoint__checkpoint_dir=str(disk))
    assert [path.name for path in disk.iterdir()] == ["epoch-0001"]
    with pytest.raises(ConfigError, match=f"holds a run already .{disk}"):
        run(tmp_path / "second", checkpoint__checkpoint_dir=str(disk))
    (disk / LOCK_FILE).write_bytes(b"")  # as a run leaves it that was killed before its first save
    shutil.rmtree(disk / "epoch-0001")
    assert not origin_problems(config(checkpoint__checkpoint_dir=str(disk)), tmp_path / "third")


def test_a_dangling_link_is_refused_and_named(copy: Path, tmp_path: Path) -> None:
    (copy / "checkpoints").rename(tmp_path / "disk")
    (copy / "checkpoints").symlink_to(tmp_path / "unmounted")
    for options in (AUTO, MORE):
        text = refused(copy, **options)
        assert (
            f"checkpoints is a link to {tmp_path / 'unmounted'}, which is not there: is its disk mounted?"
            in text
        )
        assert "events.jsonl says that epoch-0001 was saved" in text
    with pytest.raises(CheckpointError, match=r"is a link to .*unmounted, which is not there"):
        esper.load(copy)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "checkpoints").symlink_to(tmp_path / "unmounted")
    assert "checkpoint.checkpoint_dir: given './checkpoints'" in refused(fresh)


def test_checkpoints_that_were_moved_are_asked_for_and_taken_where_they_are_now(
    copy: Path, tmp_path: Path
) -> None:
    (copy / "checkpoints").rename(tmp_path / "moved")
    text = refused(copy, **MORE)
    assert f"{copy / 'checkpoints'} does not exist, and events.jsonl says that epoch-0001 was saved" in text
    assert "checkpoint.checkpoint_dir=<folder>" in text
    (copy / "checkpoints").mkdir()  # a mount point without its disk
    assert "checkpoints is empty, and events.jsonl" in refused(copy, **MORE)
    moved = {**MORE, "checkpoint__checkpoint_dir": str(tmp_path / "moved")}
    assert run(copy, **moved).startswith(f"resumed from {tmp_path / 'moved' / 'epoch-0001'}: epoch 1")
    assert summary_of(copy)["epochs_run"] == 2
    assert find_checkpoint(copy).path == tmp_path / "moved" / "epoch-0002"


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system reports; for root that is a disk that is mounted read-only (see the fault suite)."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "checkpoints")
    text = refused(copy, **MORE)
    assert "checkpoint.checkpoint_dir: given './checkpoints'" in text
    assert f"a folder that can be written to ({copy / 'checkpoints'} cannot be written to)" in text
    assert "nothing to do" in run(_finished(copy), **AUTO), "a finished run saves nothing more"


def _finished(copy: Path) -> Path:
    (copy / "summary.json").write_text('{"stopped_by": "max_epochs", "epochs_run": 1}')
    return copy


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    assert f"{tmp_path / 'checkpoints'} is a file" in refused(tmp_path)
