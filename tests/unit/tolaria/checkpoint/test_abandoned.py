"""What a rollback has abandoned is found by nobody and removed by the next save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import find_checkpoint, save_checkpoint
from esper.tolaria.checkpoint.abandoned import abandoned
from esper.tolaria.checkpoint.discovery import load_latest
from esper.tolaria.checkpoint.index import Entry
from esper.tolaria.checkpoint.metadata import name_of
from esper.tolaria.checkpoint.retention import Retention, prune

BACK = "epoch-0002-batch-000000"  # a name of its own, so that the one it goes back to stays beside it


def entry(sequence: int, step: int, *, back: bool = False, batch: int = 0, epoch: int = 0) -> Entry:
    return Entry(Path(f"s{sequence}"), sequence, step, epoch, batch, rollback=back)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(1, 6), entry(2, 12)], {}),
        # saved later though the step is smaller, but by nobody's rollback: somebody has resumed an old one
        ([entry(1, 6), entry(2, 12), entry(3, 6)], {}),
        ([entry(1, 6), entry(2, 12), entry(3, 15), entry(4, 12, back=True)], {"s2": "s4", "s3": "s4"}),
        ([entry(1, 12), entry(2, 6, back=True), entry(3, 12), entry(4, 18)], {"s1": "s2"}),
        # twice: the second rollback goes less far back than the first
        (
            [entry(1, 30), entry(2, 6, back=True), entry(3, 24), entry(4, 18, back=True), entry(5, 24)],
            {"s1": "s2", "s3": "s4"},
        ),
        # twice: the second goes further, and the first is abandoned with what followed it
        ([entry(1, 18, back=True), entry(2, 24), entry(3, 6, back=True)], {"s1": "s3", "s2": "s3"}),
        # the same step: an epoch whose last step is done is not yet one that is over
        ([entry(1, 12, epoch=2), entry(2, 12, epoch=1, batch=6, back=True)], {"s1": "s2"}),
        ([entry(1, 12, epoch=1, batch=6), entry(2, 12, epoch=2, back=True)], {}),
    ],
)
def test_a_rollback_abandons_earlier_saves_of_its_position_and_later_ones(
    entries: list[Entry], expected: dict[str, str]
) -> None:
    assert {str(path): str(back.path) for path, back in abandoned(entries).items()} == expected


def save(folder: Path, epoch: int, batch: int = 0, *, back: bool = False, name: str = "") -> Path:
    progress = {"step": 6 * epoch + batch, "epoch": epoch, "batch": batch}
    run: dict[str, Any] = {"progress": progress}
    if back:
        run["rollback"] = {"failed_step": 99, "event": {}}
    tensors = {"model": {"w": torch.full((3,), float(epoch))}}
    return save_checkpoint(folder, name or name_of(progress), tensors=tensors, state={"run": run})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Killed after the rollback to epoch 2 was durable, and before what it abandons was removed."""
    folder = tmp_path / "checkpoints"
    for epoch, batch in ((1, 0), (2, 0), (2, 3), (3, 0)):
        save(folder, epoch, batch)
    save(folder, 2, back=True, name=BACK)
    return folder


def test_the_newest_is_that_of_the_rollback(folder: Path) -> None:
    assert find_checkpoint(folder).path.name == BACK
    assert load_latest(folder).path.name == BACK


def test_where_that_of_the_rollback_is_damaged_an_earlier_one_is_taken(folder: Path) -> None:
    """Never one of the course that was left, and each refusal is explained."""
    (folder / BACK / "model.safetensors").write_bytes(b"")
    found = find_checkpoint(folder)
    assert found.path.name == "epoch-0001"
    assert len(found.refused) == 4
    assert any("epoch-0003 was abandoned when the run was rolled back to step 12" in s for s in found.refused)
    assert load_latest(folder).path.name == "epoch-0001"


def test_an_abandoned_one_that_is_named_itself_is_refused(folder: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=rf"epoch-0003 was abandoned .* \({BACK}\); expected .*{BACK}",
    ):
        find_checkpoint(folder / "epoch-0003")
    assert find_checkpoint(folder / "epoch-0001").path.name == "epoch-0001"


@pytest.mark.parametrize("retention", [Retention(2), Retention(2, best=False), Retention(2, every=1)])
def test_pruning_removes_them_first_and_nothing_good_in_their_place(
    folder: Path, retention: Retention
) -> None:
    assert set(prune(folder, retention)) == {"epoch-0002", "epoch-0002-batch-000003", "epoch-0003"}
    assert {path.name for path in folder.iterdir()} == {"epoch-0001", BACK}


def test_the_checkpoint_of_a_rollback_to_the_start_is_no_milestone(tmp_path: Path) -> None:
    """`keep_every` keeps each so-manieth epoch; none is over at step 0."""
    for epoch in (0, 1, 2):
        save(tmp_path, epoch, back=epoch == 0)
    assert prune(tmp_path, Retention(1, every=2)) == ["epoch-0000", "epoch-0001"]
