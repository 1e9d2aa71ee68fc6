from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.config import CheckpointConfig, TolariaConfig
from esper.errors import CheckpointError
from esper.tolaria.checkpoint import (
    checkpoint_folder,
    discovery,
    find_and_load,
    find_checkpoint,
    save_checkpoint,
)
from esper.tolaria.checkpoint import format as checkpoint_format
from esper.tolaria.checkpoint.retention import Retention, prune
from esper.utils.manifest import MANIFEST
from esper.utils.open_files import OpenFolder


def save(folder: Path, name: str) -> Path:
    return save_checkpoint(folder, name, tensors={"model": {"w": torch.ones(3)}}, state={"name": name})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for epoch in (1, 2, 3):
        save(tmp_path / "run" / "checkpoints", f"epoch-{epoch:04d}")
    return tmp_path / "run"


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_run_a_folder_of_checkpoints_and_a_checkpoint(run: Path) -> None:
    newest = run / "checkpoints" / "epoch-0003"
    for path in (run, run / "checkpoints", newest):
        found = find_checkpoint(path)
        assert (found.path, found.refused) == (newest, ())
    older = run / "checkpoints" / "epoch-0001"
    assert find_checkpoint(older).path == older


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", MANIFEST])
def test_damaged_ones_are_passed_over_and_named(run: Path, name: str) -> None:
    """The previous valid checkpoint is used, with a message."""
    folder = run / "checkpoints"
    spoil(folder / "epoch-0003" / name)
    (folder / "epoch-0002" / name).unlink()
    found = find_checkpoint(run)
    assert found.path == folder / "epoch-0001"
    assert len(found.refused) == 2
    assert any("epoch-0003" in sentence for sentence in found.refused)
    assert any("epoch-0002" in sentence for sentence in found.refused)


def test_one_that_is_named_itself_is_taken_or_refused(run: Path) -> None:
    path = run / "checkpoints" / "epoch-0003"
    spoil(path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"epoch-0003: model\.safetensors is damaged"):
        find_checkpoint(path)
    (path / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        find_checkpoint(path)


def test_the_newest_is_the_one_saved_last(run: Path) -> None:
    """A run resumed from an older checkpoint continues from there, not from its former end."""
    folder = run / "checkpoints"
    save(folder, "epoch-0002")
    assert find_checkpoint(run).path == folder / "epoch-0002"
    save(folder, "epoch-0002-batch-000007")
    assert find_checkpoint(run).path == folder / "epoch-0002-batch-000007"


def test_unfinished_and_linked_folders_do_not_count(run: Path) -> None:
    folder = run / "checkpoints"
    shutil.copytree(folder / "epoch-0003", folder / ".tmp-epoch-0004-0123abcd")
    (folder / "latest").symlink_to(folder / "epoch-0001")
    (folder / "notes.txt").write_text("mine")
    found = find_checkpoint(run)
    assert (found.path.name, found.refused) == ("epoch-0003", ())


def test_nothing_there(run: Path, tmp_path: Path) -> None:
    """The error says where was searched and why each checkpoint was rejected."""
    with pytest.raises(CheckpointError, match="absent does not exist"):
        find_checkpoint(tmp_path / "absent")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.pt is a file; expected a checkpoint"):
        find_checkpoint(tmp_path / "model.pt")
    (tmp_path / "empty" / "profiler").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"empty holds no checkpoint$"):
        find_checkpoint(tmp_path / "empty")
    for path in (run / "checkpoints").iterdir():
        spoil(path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no good checkpoint(\n.*epoch-000\d.*damaged.*){3}"):
        find_checkpoint(run)


@pytest.mark.parametrize("where", ["./kept/here", "kept", "ABSOLUTE"])
def test_a_runs_own_configuration_says_where_its_checkpoints_are(tmp_path: Path, where: str) -> None:
    where = where.replace("ABSOLUTE", str(tmp_path / "elsewhere"))
    run = tmp_path / "run"
    run.mkdir()
    config = TolariaConfig(checkpoint=CheckpointConfig(checkpoint_dir=where))
    config.to_yaml(run / "config.yaml")
    assert checkpoint_folder(run) == run / where
    saved = save(run / where, "epoch-0001")
    assert find_checkpoint(run).path.resolve() == saved.resolve()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "checkpoint: 3",
        "checkpoint: {checkpoint_dir: }",
        "checkpoint: {checkpoint_dir: [a]}",
        'checkpoint: {checkpoint_dir: "a\\0b"}',
        "{",
        "? [a]\n: b\n",
        "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(30)),
        "x: !!python/object/apply:os.system ['touch marker']\n",
        "[" * 3000,
        "y" * 100_000,
    ],
)
def test_a_configuration_that_says_nothing_of_it_means_the_default(run: Path, text: str) -> None:
    """It is read before anything is verified, so nothing in it is built, resolved or run."""
    (run / "config.yaml").write_text(text)
    assert find_checkpoint(run).path.name == "epoch-0003"


def test_a_reader_beside_a_run_that_saves_and_removes(tmp_path: Path) -> None:
    """What is read is one complete save, and never older than the last one before it."""
    folder, durable, over = tmp_path / "checkpoints", [0], threading.Event()

    def save_for_ever() -> None:
        for number in itertools.count(1):
            tensors = {"model": {"w": torch.full((64,), float(number))}}
            save_checkpoint(folder, f"epoch-{number // 2:04d}", tensors=tensors, state={"number": number})
            prune(folder, Retention(1, best=False))
            durable[0] = number
            if over.is_set():
                return

    writer = threading.Thread(target=save_for_ever)
    writer.start()
    try:
        while not durable[0]:
            over.wait(0.001)
        first = durable[0]
        for _ in range(100):
            last = durable[0]
            found, saved = find_and_load(tmp_path)
            number = saved.state["number"]
            assert (
                saved.tensors["model"]["w"] == number
            ).all() and found.path.name == f"epoch-{number // 2:04d}"
            assert number >= last
        assert durable[0] > first, "nothing was saved meanwhile"
    finally:
        over.set()
        writer.join()


def test_what_has_been_opened_is_read_to_its_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed during the read: a slow reader of a run that keeps few checkpoints still gets its model."""
    verify = checkpoint_format.verify_folder
    removed = []

    def remove_first(folder: OpenFolder) -> object:
        shutil.rmtree(folder.path)
        removed.append(folder.path.name)
        return verify(folder)

    monkeypatch.setattr(checkpoint_format, "verify_folder", remove_first)
    found, saved = find_and_load(run)
    assert removed == ["epoch-0003"] and found.path.name == "epoch-0003"
    assert saved.state == {"name": "epoch-0003"} and (saved.tensors["model"]["w"] == 1).all()


def test_one_that_goes_before_it_is_opened_is_not_a_bad_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is searched again; no message says that a checkpoint was rejected."""
    read = checkpoint_format.read_manifest

    def remove_first(folder: OpenFolder) -> object:
        if folder.path.name == "epoch-0003":
            shutil.rmtree(folder.path)
        return read(folder)

    monkeypatch.setattr(checkpoint_format, "read_manifest", remove_first)
    found, saved = find_and_load(run)
    assert (found.path.name, found.refused) == ("epoch-0002", ()) and saved.state == {"name": "epoch-0002"}


def test_one_that_is_being_replaced_is_waited_for(run: Path) -> None:
    """Between the two renames of a replacement there is no folder of that name."""
    whole = run / "checkpoints" / "epoch-0003"
    for path in (run, whole):
        aside = whole.with_name(".old-epoch-0003-0123abcd")
        for name in ("epoch-0001", "epoch-0002"):
            shutil.rmtree(run / "checkpoints" / name, ignore_errors=True)
        whole.rename(aside)
        back = threading.Timer(0.05, aside.rename, [whole])
        back.start()
        assert find_checkpoint(path).path == whole
        back.join()
    whole.rename(aside)
    with pytest.raises(CheckpointError, match="is being replaced"):
        find_checkpoint(run)
    older = save(run / "checkpoints", "epoch-0001")
    assert find_checkpoint(run).path == older, "the run was killed just then: what can be read is read"


def test_a_replacement_that_ends_just_after_the_listing_is_not_missed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = find_checkpoint(run).path
    aside, new = newest.with_name(f".old-{newest.name}-0123abcd"), newest.with_name(".tmp-new")
    shutil.copytree(newest, new)
    newest.rename(aside)
    steps: list[str] = []

    def recorded(what: str, call: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def called(folder: Path) -> Any:
            found = call(folder)
            steps.append(what)
            if steps[-2:] == ["checkpoints", "names"] and new.exists():
                new.rename(newest)  # the writer puts the new one in its place
            return found

        return called

    monkeypatch.setattr(discovery, "_names", recorded("names", discovery._names))
    monkeypatch.setattr(discovery, "list_checkpoints", recorded("checkpoints", discovery.list_checkpoints))
    assert find_checkpoint(run).path == newest
    assert not new.exists()


def test_a_run_whose_checkpoints_are_not_where_it_says_is_reported(run: Path, tmp_path: Path) -> None:
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "gone")
    with pytest.raises(
        CheckpointError, match=r"run holds no checkpoint; .* is a link to .*gone, which is not"
    ):
        find_checkpoint(run)
    (run / "checkpoints").unlink()
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert find_checkpoint(run).path == run / "checkpoints" / "epoch-0003"
