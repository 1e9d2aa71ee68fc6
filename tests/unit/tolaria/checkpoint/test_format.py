from __future__ import annotations

import errno
import json
import os
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.tolaria.checkpoint import load_checkpoint, load_named_state, named_state, save_checkpoint
from esper.tolaria.checkpoint.format import is_checkpoint, list_checkpoints, read_state
from esper.utils.files import Content, Files, commit_folder
from esper.utils.manifest import MANIFEST, verify_folder
from esper.utils.safetensors import tensor_bytes

STATE = {"epoch": 3, "loss": float("inf"), "seeds": [{"layer": "conv", "alpha": 0.1 + 0.2}], "none": None}


def make(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 3, generator=generator)
    return {
        "model": {"w": weight, "tied": weight, "strided": weight.t(), "count": torch.tensor(7)},
        "rng": {"cpu": torch.arange(9, dtype=torch.uint8)},
        "nothing": {},
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path, "epoch-0003", tensors=make(), state=STATE)


def assert_same(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> None:
    assert a.keys() == b.keys()
    for stem in a:
        assert a[stem].keys() == b[stem].keys()
        for name, tensor in a[stem].items():
            assert tensor.dtype == b[stem][name].dtype
            assert torch.equal(tensor, b[stem][name])


def test_round_trip(checkpoint: Path) -> None:
    """Exact tensors and floats; a folder of safetensors, JSON and a manifest, and nothing else."""
    names = {"state.json", MANIFEST, "model.safetensors", "rng.safetensors", "nothing.safetensors"}
    assert {path.name for path in checkpoint.iterdir()} == names
    loaded = load_checkpoint(checkpoint)
    assert (loaded.path, loaded.state) == (checkpoint, STATE)
    assert_same(loaded.tensors, make())


def test_saved_copies_do_not_change_with_the_originals(checkpoint: Path) -> None:
    first, second = load_checkpoint(checkpoint), load_checkpoint(checkpoint)
    first.tensors["model"]["w"].zero_()
    assert_same(second.tensors, make())
    assert_same(load_checkpoint(checkpoint).tensors, make())


def test_the_same_name_is_replaced(checkpoint: Path) -> None:
    save_checkpoint(checkpoint.parent, checkpoint.name, tensors={"model": make(1)["model"]}, state={})
    loaded = load_checkpoint(checkpoint)
    assert loaded.state == {}
    assert_same(loaded.tensors, {"model": make(1)["model"]})
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_model_and_optimiser_go_on_from_a_file(tmp_path: Path) -> None:
    """By name, batch-norm buffers and step counts included, bit for bit."""

    def make_parts() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        return model, torch.optim.Adam([{"params": list(model.parameters()), "name": "host"}], lr=1e-2)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.arange(6.0).reshape(2, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = make_parts()
    step(model, optimizer)
    tensors, meta = named_state(optimizer, model.named_parameters())
    both = {"model": model.state_dict(), "optimizer": tensors}
    loaded = load_checkpoint(save_checkpoint(tmp_path, "a", tensors=both, state={"optimizer": meta}))
    twin, other = make_parts()
    twin.load_state_dict(loaded.tensors["model"])
    load_named_state(other, twin.named_parameters(), loaded.tensors["optimizer"], loaded.state["optimizer"])
    step(model, optimizer)
    step(twin, other)
    assert_same({"model": model.state_dict()}, {"model": twin.state_dict()})


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"a": {"b": [1, torch.ones(1)]}}, r"state\.a\.b\[1\] is a Tensor"),
        ({"a": {1: 2}}, r"state\.a has the key 1, which JSON cannot hold"),
        ({"a": {1, 2}}, r"state\.a is a set"),
        ({"a": "x" * (7 << 20)}, "at most 6291456 can be saved"),
    ],
)
def test_state_that_cannot_be_read_again_is_not_written(tmp_path: Path, state: Any, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        save_checkpoint(tmp_path, "a", tensors={}, state=state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "a/b", ".tmp-a", ""])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a valid file name"):
        save_checkpoint(tmp_path, name, tensors={}, state={})
    with pytest.raises(CheckpointError, match="is not a valid file name"):
        save_checkpoint(tmp_path, "a", tensors={name: {"w": torch.ones(1)}}, state={})
    assert list(tmp_path.iterdir()) == []


class Broken(Files):
    """The k-th write or fsync fails."""

    def __init__(self, k: int) -> None:
        self.left = k

    def write(self, path: Path, content: Content) -> None:
        self._tick()
        super().write(path, content)

    def fsync(self, path: Path) -> None:
        self._tick()
        super().fsync(path)

    def _tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_previous_one(checkpoint: Path) -> None:
    """At each call of a save (five files, written and synced), with one error each time."""
    for k in range(1, 11):
        with pytest.raises(CheckpointError, match=r"epoch-0004 could not be written; .*No space left"):
            save_checkpoint(checkpoint.parent, "epoch-0004", tensors=make(1), state=STATE, io=Broken(k))
        assert list(checkpoint.parent.iterdir()) == [checkpoint]
        load_checkpoint(checkpoint)


def test_a_disk_that_really_is_too_small(checkpoint: Path) -> None:
    """The limit on file sizes stops safetensors itself in the middle of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"epoch-0004 could not be written; .*File too large"):
            save_checkpoint(
                checkpoint.parent, "epoch-0004", tensors={"m": {"w": torch.ones(100_000)}}, state={}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def damage(folder: Path, data: st.DataObject) -> Callable[[], None]:
    """Flip a bit, cut, delete or swap; returns how to undo it."""
    name = data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    path, other = (
        folder / name,
        folder / ("rng.safetensors" if name == "model.safetensors" else "model.safetensors"),
    )
    before, other_before = path.read_bytes(), other.read_bytes()
    match data.draw(st.sampled_from(["flip", "cut", "delete", "swap"])):
        case "flip":
            bit = data.draw(st.integers(0, 8 * len(before) - 1))
            altered = bytearray(before)
            altered[bit // 8] ^= 1 << bit % 8
            path.write_bytes(altered)
        case "cut":
            path.write_bytes(before[: data.draw(st.integers(0, len(before) - 1))])
        case "delete":
            path.unlink()
        case _:
            path.write_bytes(other_before)
            other.write_bytes(before)

    def undo() -> None:
        path.write_bytes(before)
        other.write_bytes(other_before)

    return undo


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_silent(checkpoint: Path, data: st.DataObject) -> None:
    """300 corruptions, all rejected with the checkpoint's name."""
    undo = damage(checkpoint, data)
    try:
        with pytest.raises(CheckpointError, match="epoch-0003"):
            load_checkpoint(checkpoint)
    finally:
        undo()


def test_a_reader_without_the_manifest_would_not_notice(checkpoint: Path) -> None:
    """Negative control: safetensors alone reads a flipped bit as a wrong value."""
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    from esper.utils.safetensors import load_tensors

    loaded, _ = load_tensors(path)
    assert not all(torch.equal(loaded[name], tensor) for name, tensor in make()["model"].items())


def forge(folder: Path, **files: bytes) -> Path:
    """A folder with a valid manifest: an attacker can compute hashes, too."""
    state = {"format": "esper-checkpoint", "version": 1, "sequence": 1, "state": {}}
    content = {
        "state.json": json.dumps(state).encode(),
        "model.safetensors": tensor_bytes({"w": torch.ones(1)}),
    }
    renamed = {name.replace("__", "."): data for name, data in files.items()}
    commit_folder(folder, {**content, **renamed})
    verify_folder(folder)
    return folder


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def state_json(**changes: object) -> bytes:
    state = {"format": "esper-checkpoint", "version": 1, "sequence": 1, "state": {}}
    return json.dumps({**state, **changes}).encode()


def crowded() -> bytes:
    """A header of nearly the largest size with empty tensors only, and one byte too many after it."""
    entry = b'"%06x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % i for i in range(130_000)) + b"}"
    return struct.pack("<Q", len(header)) + header + b"!"


HOSTILE: dict[str, tuple[Callable[[], dict[str, bytes]], str]] = {
    "foreign file": (lambda: {"notes__txt": b""}, "notes.txt is not part of a checkpoint"),
    "future": (
        lambda: {"state__json": state_json(version=9)},
        "of version 9; this Esper reads up to version 1",
    ),
    "other format": (lambda: {"state__json": state_json(format="keras")}, "its format is 'keras'"),
    "no state": (lambda: {"state__json": state_json(state=None)}, "lacks a part"),
    "no order": (lambda: {"state__json": state_json(sequence="1")}, "lacks a part"),
    "not JSON": (lambda: {"state__json": b"\x80\x04."}, "is not JSON"),
    "deep JSON": (lambda: {"state__json": b"[" * 5_000_000}, "is not JSON"),
    "big JSON": (lambda: {"state__json": b" " * (7 << 20)}, "at most 6291456 are expected"),
    "giant header": (lambda: {"model__safetensors": b"\xff" * 64}, "announces a header of"),
    "header full of tensors": (lambda: {"model__safetensors": crowded()}, "damaged or not a safetensors"),
    "many empties": (lambda: {"state__json": b"[" + b"{}," * 2_000_000 + b"{}]"}, "holds a JSON list"),
}


def memory_kb(field: str) -> int:
    """VmRSS, or VmHWM: the peak since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoints_are_refused_quickly(tmp_path: Path, kind: str) -> None:
    """Within 2 s and 200 MB, by name, although the hashes are right."""
    make_files, sentence = HOSTILE[kind]
    folder = forge(tmp_path / "evil", **make_files())
    Path("/proc/self/clear_refs").write_text("5")
    # of this process: what others do on the machine is not the checkpoint's doing
    before, began = memory_kb("VmRSS"), time.process_time()
    with pytest.raises(CheckpointError, match=rf"evil.*{sentence}"):
        load_checkpoint(folder)
    assert time.process_time() - began < 2
    assert memory_kb("VmHWM") - before < 200_000


def test_pickles_are_never_run(tmp_path: Path) -> None:
    """In any file of a checkpoint, and in its place."""
    marker = tmp_path / "marker"
    torch.save(Payload(marker), tmp_path / "payload.pt")
    payload = (tmp_path / "payload.pt").read_bytes()
    for name in ("model__safetensors", "state__json", "model__pt"):
        with pytest.raises(CheckpointError):
            load_checkpoint(forge(tmp_path / name, **{name: payload}))
    with pytest.raises(CheckpointError, match="expected a folder"):
        load_checkpoint(tmp_path / "payload.pt")
    assert not marker.exists()
    torch.load(tmp_path / "payload.pt", weights_only=False)  # the control: this payload does run
    assert marker.exists()


def test_foreign_folders_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model.safetensors").write_bytes(tensor_bytes({"w": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"hub is not a checkpoint: it holds no manifest\.json"):
        load_checkpoint(tmp_path / "hub")
    commit_folder(tmp_path / "other", {"model.safetensors": tensor_bytes({"w": torch.ones(1)})})
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        load_checkpoint(tmp_path / "other")


def test_a_state_that_does_not_fit_is_an_error(checkpoint: Path) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="not whole"):
        load_named_state(
            torch.optim.SGD(model.parameters()),
            model.named_parameters(),
            {},
            load_checkpoint(checkpoint).state,
        )


def test_order_is_that_of_the_saves(tmp_path: Path) -> None:
    for name in ("b", "c", "a", "b"):
        save_checkpoint(tmp_path, name, tensors={}, state={})
    entries, problems = list_checkpoints(tmp_path)
    assert [(entry.path.name, entry.sequence) for entry in entries] == [("c", 2), ("a", 3), ("b", 4)]
    assert problems == []


def test_what_cannot_be_read_is_named_and_does_not_stop_a_save(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "a", tensors={}, state={})
    (tmp_path / "a" / "state.json").write_bytes(b"{")
    (tmp_path / "mine").mkdir()
    entries, problems = list_checkpoints(tmp_path)
    assert entries == []
    (sentence,) = problems
    assert "a/state.json is not JSON" in sentence
    (tmp_path / "a" / "state.json").unlink()
    assert "a: state.json is missing" in list_checkpoints(tmp_path)[1][0]
    save_checkpoint(tmp_path, "b", tensors={}, state={"x": 1})
    assert read_state(tmp_path / "b") == {
        "format": "esper-checkpoint",
        "version": 1,
        "sequence": 1,
        "state": {"x": 1},
    }


def test_what_is_meant_to_be_a_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "a", tensors={}, state={})
    for name in ("manifest.json", "state.json"):
        assert is_checkpoint(path)
        (path / name).unlink()
    assert not is_checkpoint(path)


def test_a_folder_that_cannot_be_searched(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent cannot be searched"):
        list_checkpoints(tmp_path / "absent")
