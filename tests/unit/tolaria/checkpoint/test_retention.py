from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import find_checkpoint, save_checkpoint
from esper.tolaria.checkpoint.discovery import load_latest
from esper.tolaria.checkpoint.format import CheckpointEntry
from esper.tolaria.checkpoint.metadata import name_of
from esper.tolaria.checkpoint.retention import Retention, find_abandoned, prune


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(saves=st.lists(st.sampled_from("12345"), min_size=1, max_size=8), keep=st.integers(1, 4))
def test_the_last_saves_stay(tmp_path: Path, saves: list[str], keep: int) -> None:
    """Never more than `keep`, always the newest; a name that is saved again is new again."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    expected: list[str] = []
    for name in saves:
        save_checkpoint(folder, f"epoch-000{name}", tensors={}, state={})
        expected = [other for other in expected if other != name] + [name]
        removed = prune(folder, Retention(keep))
        assert removed == [f"epoch-000{other}" for other in expected[:-keep]]
        expected = expected[-keep:]
        assert names(folder) == {f"epoch-000{other}" for other in expected}
        assert find_checkpoint(folder).path.name == f"epoch-000{name}"


def entry(epoch: int, batch: int = 0, *, best: bool = False) -> CheckpointEntry:
    return CheckpointEntry(Path(f"{epoch}-{batch}"), epoch, 10 * epoch + batch, epoch, batch, best)


@pytest.mark.parametrize(
    ("retention", "stay"),
    [
        (Retention(2), ["4-0", "9-0"]),  # the best, and the last
        (Retention(3), ["4-0", "8-5", "9-0"]),
        (Retention(1), ["9-0"]),  # it holds the best weights, too
        (Retention(2, best=False), ["8-5", "9-0"]),
        (Retention(2, every=3), ["3-0", "4-0", "6-0", "9-0"]),
        (Retention(1, every=4), ["4-0", "8-0", "9-0"]),
        (Retention(99), [f"{n}-0" for n in range(1, 9)] + ["8-5", "9-0"]),
    ],
)
def test_the_last_the_best_and_every_nth_stay(retention: Retention, stay: list[str]) -> None:
    """Of those that were saved with the best model, the last one is the best."""
    entries = [entry(n, best=n in (1, 2, 4)) for n in range(1, 9)] + [entry(8, 5), entry(9)]
    gone = retention.to_remove(entries)
    assert [str(e.path) for e in entries if e not in gone] == stay


def test_what_no_save_has_made_stays(tmp_path: Path) -> None:
    """A user's copy in the folder has another name: it is neither removed nor counted."""
    first, second, third = (f"epoch-000{number}" for number in (1, 2, 3))
    copies = {"epoch-0002-good", "before-the-change", "mine"}
    for name in (first, second, third):
        save_checkpoint(tmp_path, name, tensors={}, state={})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.csv").write_text("1")
    for name in copies - {"mine"}:
        shutil.copytree(tmp_path / second, tmp_path / name)
    (tmp_path / first / "state.json").write_text("{}")
    (tmp_path / "latest").symlink_to(tmp_path / second)
    assert prune(tmp_path, Retention(1)) == [second]
    assert names(tmp_path) == {first, third, "latest"} | copies


def test_nothing_to_search_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent"):
        prune(tmp_path / "absent", Retention(1))


BACK = "epoch-0002-batch-000000"  # a name of its own, so that the one it goes back to stays beside it


def saved(sequence: int, step: int, *, back: bool = False, batch: int = 0, epoch: int = 0) -> CheckpointEntry:
    return CheckpointEntry(Path(f"s{sequence}"), sequence, step, epoch, batch, rollback=back)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([saved(1, 6), saved(2, 12)], {}),
        # saved later although the step is smaller, but not after a rollback: an old one was resumed
        ([saved(1, 6), saved(2, 12), saved(3, 6)], {}),
        ([saved(1, 6), saved(2, 12), saved(3, 15), saved(4, 12, back=True)], {"s2": "s4", "s3": "s4"}),
        ([saved(1, 12), saved(2, 6, back=True), saved(3, 12), saved(4, 18)], {"s1": "s2"}),
        # twice: the second rollback goes less far back than the first
        (
            [saved(1, 30), saved(2, 6, back=True), saved(3, 24), saved(4, 18, back=True), saved(5, 24)],
            {"s1": "s2", "s3": "s4"},
        ),
        # twice: the second goes further, and the first is abandoned with what followed it
        ([saved(1, 18, back=True), saved(2, 24), saved(3, 6, back=True)], {"s1": "s3", "s2": "s3"}),
        # the same step: an epoch whose last step is done is not yet one that is over
        ([saved(1, 12, epoch=2), saved(2, 12, epoch=1, batch=6, back=True)], {"s1": "s2"}),
        ([saved(1, 12, epoch=1, batch=6), saved(2, 12, epoch=2, back=True)], {}),
    ],
)
def test_a_rollback_abandons_earlier_saves_of_its_position_and_later_ones(
    entries: list[CheckpointEntry], expected: dict[str, str]
) -> None:
    assert {str(path): str(back.path) for path, back in find_abandoned(entries).items()} == expected


def save(folder: Path, epoch: int, batch: int = 0, *, back: bool = False, name: str = "") -> Path:
    progress = {"step": 6 * epoch + batch, "epoch": epoch, "batch": batch}
    run: dict[str, Any] = {"progress": progress}
    if back:
        run["rollback"] = {"failed_step": 99, "event": {}}
    tensors = {"model": {"w": torch.full((3,), float(epoch))}}
    return save_checkpoint(folder, name or name_of(progress), tensors=tensors, state={"run": run})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Killed after the rollback to epoch 2 was durable, before the abandoned checkpoints were removed."""
    folder = tmp_path / "checkpoints"
    for epoch, batch in ((1, 0), (2, 0), (2, 3), (3, 0)):
        save(folder, epoch, batch)
    save(folder, 2, back=True, name=BACK)
    return folder


def test_the_newest_is_that_of_the_rollback(folder: Path) -> None:
    assert find_checkpoint(folder).path.name == BACK
    assert load_latest(folder).path.name == BACK


def test_where_that_of_the_rollback_is_damaged_an_earlier_one_is_taken(folder: Path) -> None:
    """Never an abandoned one, and each rejection is explained."""
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
    """`keep_every` keeps each n-th epoch; none is over at step 0."""
    for epoch in (0, 1, 2):
        save(tmp_path, epoch, back=epoch == 0)
    assert prune(tmp_path, Retention(1, every=2)) == ["epoch-0000", "epoch-0001"]
