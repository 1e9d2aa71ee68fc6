from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import CheckpointError
from esper.utils.files import commit_folder
from esper.utils.manifest import MANIFEST, parse_json_object, read_bounded, render_manifest, verify_folder

FILES = {"state.json": b'{"a": 1}', "model.bin": bytes(range(256)), "empty.bin": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return commit_folder(tmp_path / "one", FILES)


def test_what_was_written_verifies(folder: Path) -> None:
    assert {name: entry.size for name, entry in verify_folder(folder).items()} == {
        "state.json": 8,
        "model.bin": 256,
        "empty.bin": 0,
    }


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_and_cut_is_refused_by_name(folder: Path, data: st.DataObject) -> None:
    """In any file, the manifest included."""
    name = data.draw(st.sampled_from(["state.json", "model.bin", MANIFEST]))
    path = folder / name
    before = path.read_bytes()
    if data.draw(st.booleans()):
        flip(path, data.draw(st.integers(0, 8 * len(before) - 1)))
    else:
        path.write_bytes(before[: data.draw(st.integers(0, len(before) - 1))])
    try:
        with pytest.raises(CheckpointError, match=str(folder)):
            verify_folder(folder)
    finally:
        path.write_bytes(before)
    verify_folder(folder)


def swap(folder: Path) -> None:
    (folder / "model.bin").rename(folder / "x")
    (folder / "state.json").rename(folder / "model.bin")
    (folder / "x").rename(folder / "state.json")


def link(folder: Path) -> None:
    (folder / "model.bin").rename(folder.parent / "elsewhere")
    (folder / "model.bin").symlink_to(folder.parent / "elsewhere")


def fifo(folder: Path) -> None:
    (folder / "model.bin").unlink()
    os.mkfifo(folder / "model.bin")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "model.bin").unlink(), "model.bin is missing"),
        (lambda f: (f / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda f: (f / "extra.bin").write_bytes(b""), "'extra.bin' is not in its manifest"),
        (lambda f: (f / "sub").mkdir(), "'sub' is not in its manifest"),
        (lambda f: (f / "model.bin").write_bytes(b"x" * 256), "model.bin is damaged"),
        (swap, "is 8 bytes long, its manifest says 256"),
        (link, "model.bin is not a plain file"),
        (fifo, "model.bin is not a plain file"),
        (lambda f: (f / MANIFEST).write_bytes(b"[" * 100_000), "is not JSON"),
        (lambda f: (f / MANIFEST).write_bytes(b"[1]"), "holds a JSON list"),
        (lambda f: (f / MANIFEST).write_bytes(b" " * (2 << 20)), "at most 1048576 are expected"),
        (lambda f: (f / MANIFEST).write_bytes(b'{"format": "zip"}'), "its format is 'zip'"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], sentence: str) -> None:
    """Deleted, swapped, added and linked files; a pipe is not waited for."""
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence):
        verify_folder(folder)


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / MANIFEST).read_bytes())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


ENTRY = {"sha256": "0" * 64, "size": 0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(version=2), "of version 2; this Esper reads up to version 1"),
        (lambda m: m.update(version="1"), "its version is '1'"),
        (lambda m: m.update(version=True), "its version is True"),
        (lambda m: m["files"].update({"../up": ENTRY}), "'../up' is not a valid file name"),
        (lambda m: m["files"].update({"/etc/passwd": ENTRY}), "'/etc/passwd' is not a valid file name"),
        (lambda m: m["files"].update({"model.bin": {"size": 0}}), "does not give a SHA-256 and a size"),
        (lambda m: m["files"].update({"model.bin": 3}), "does not give a SHA-256 and a size"),
        (lambda m: m.update(files=[]), "has no table of files"),
        (lambda m: m.update(further=1), "was altered"),
    ],
)
def test_forged_manifests_are_refused(folder: Path, change: Callable[[dict], object], sentence: str) -> None:
    """Path traversal, future versions, missing and hidden fields."""
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=sentence):
        verify_folder(folder)


def test_a_manifest_has_one_spelling(folder: Path) -> None:
    entries = verify_folder(folder)
    assert render_manifest(dict(reversed(entries.items()))) == (folder / MANIFEST).read_bytes()
    doubled = (folder / MANIFEST).read_bytes().replace(b'"version": 1,', b'"version": 1, "version": 1,')
    (folder / MANIFEST).write_bytes(doubled)
    with pytest.raises(CheckpointError, match="was altered"):
        verify_folder(folder)


def test_bounded_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": 1}')
    assert parse_json_object(path, read_bounded(path, 8)) == {"a": 1}
    with pytest.raises(CheckpointError, match="8 bytes long; at most 7"):
        read_bounded(path, 7)
    with pytest.raises(CheckpointError, match=r"b\.json is missing"):
        read_bounded(tmp_path / "b.json", 7)
