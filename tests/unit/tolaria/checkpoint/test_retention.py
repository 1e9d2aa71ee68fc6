from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import find_checkpoint, save_checkpoint
from esper.tolaria.checkpoint.index import Entry
from esper.tolaria.checkpoint.retention import Retention, prune


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


def entry(epoch: int, batch: int = 0, *, best: bool = False) -> Entry:
    return Entry(Path(f"{epoch}-{batch}"), epoch, 10 * epoch + batch, epoch, batch, best)


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
def test_the_last_the_best_and_every_so_manieth_stay(retention: Retention, stay: list[str]) -> None:
    """Of those that were taken with the best model in place, the last one is the best."""
    entries = [entry(n, best=n in (1, 2, 4)) for n in range(1, 9)] + [entry(8, 5), entry(9)]
    gone = retention.doomed(entries)
    assert [str(e.path) for e in entries if e not in gone] == stay


def test_what_no_save_has_made_stays(tmp_path: Path) -> None:
    """A copy that was put beside the others has a name of its own: it is neither removed nor counted."""
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
