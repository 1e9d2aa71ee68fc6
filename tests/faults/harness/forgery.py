"""What a forger might make of a checkpoint (R8)."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from esper.utils.manifest import MANIFEST, hash_file, render_manifest

MODEL, STATE, OPTIMIZERS = "model.safetensors", "state.json", "optimizers.safetensors"


@dataclass(frozen=True)
class Forgery:
    """`alter(folder, marker)` forges; `says` stands in the refusal; `hashed`: the manifest is made to fit."""

    alter: Callable[[Path, Path], object]
    says: str
    hashed: bool = True
    ways: tuple[str, ...] = ("resume", "load")


# -- pickles -------------------------------------------------------------------------------------


class Payload:
    """Unpickled, it makes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def pickled(marker: Path) -> bytes:
    """What `torch.save` writes for the payload: a zip file with a pickle in it."""
    buffer = io.BytesIO()
    torch.save(Payload(marker), buffer)
    return buffer.getvalue()


def in_place_of(name: str) -> Callable[[Path, Path], object]:
    return lambda folder, marker: (folder / name).write_bytes(pickled(marker))


def beside(folder: Path, marker: Path) -> None:
    (folder / "model.pt").write_bytes(pickled(marker))


def no_folder(folder: Path, marker: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_bytes(pickled(marker))


def zip_behind(folder: Path, marker: Path) -> None:
    """A valid safetensors file if read from its start, and a zip file if read from its end."""
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes() + pickled(marker))


def zip_inside(folder: Path, marker: Path) -> None:
    """A valid safetensors file, one of whose tensors is a whole zip file."""
    raw = pickled(marker)
    tensors = {**load_file(folder / MODEL), "zip": torch.frombuffer(bytearray(raw), dtype=torch.uint8)}
    save_file(tensors, folder / MODEL)
    with zipfile.ZipFile(folder / MODEL) as found:
        assert found.namelist()


# -- tensors -------------------------------------------------------------------------------------


def raw(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(begin: int, end: int, *shape: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def crowded() -> bytes:
    """A header of nearly the greatest size, every tensor in it empty, and a byte too many behind it."""
    text = b",".join(b'"%06x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(130_000))
    return raw(b"{" + text + b"}", b"!")


def model_file(content: bytes | Callable[[], bytes]) -> Callable[[Path, Path], object]:
    def alter(folder: Path, marker: Path) -> None:
        (folder / MODEL).write_bytes(content() if callable(content) else content)

    return alter


def other_shape(folder: Path, marker: Path) -> None:
    """Every tensor is as it was, but for one that has become the model's own, many times over."""
    tensors = load_file(folder / MODEL)
    tensors["host.fc.weight"] = torch.zeros(10, 100_000)
    save_file(tensors, folder / MODEL)


# -- state ---------------------------------------------------------------------------------------


def state(**changes: object) -> Callable[[Path, Path], object]:
    """`a__b=value` sets state["a"]["b"] in state.json."""

    def alter(folder: Path, marker: Path) -> None:
        content = json.loads((folder / STATE).read_text())
        for path, value in changes.items():
            *names, last = path.split("__")
            owner = content
            for name in names:
                owner = owner[name]
            assert last in owner, path
            owner[last] = value
        (folder / STATE).write_text(json.dumps(content))

    return alter


def text(content: bytes) -> Callable[[Path, Path], object]:
    return lambda folder, marker: (folder / STATE).write_bytes(content)


def seed(**changes: object) -> Callable[[Path, Path], object]:
    """Alters the first record of the saved topology, in the model's and the best model's weights."""

    def alter(folder: Path, marker: Path) -> None:
        for name, key in ((MODEL, "_extra_state"), ("best.safetensors", "weights/_extra_state")):
            tensors = load_file(folder / name)
            topology = json.loads(bytes(tensors[key].tolist()))
            topology["seeds"][0].update(changes)
            tensors[key] = torch.frombuffer(bytearray(json.dumps(topology).encode()), dtype=torch.uint8)
            save_file(tensors, folder / name)

    return alter


# -- folders -------------------------------------------------------------------------------------


def manifest(name: str) -> Callable[[Path, Path], object]:
    """A file called `name` in the manifest."""

    def alter(folder: Path, marker: Path) -> None:
        names = [file.name for file in folder.iterdir() if file.name != MANIFEST]
        entries = {n: hash_file(folder / n) for n in names}
        (folder / MANIFEST).write_bytes(render_manifest({**entries, name: hash_file(folder / MODEL)}))

    return alter


def linked(folder: Path, marker: Path) -> None:
    (folder / MODEL).rename(folder.parent / f"{folder.name}.target")
    (folder / MODEL).symlink_to(folder.parent / f"{folder.name}.target")


def instead(make: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    def alter(folder: Path, marker: Path) -> None:
        (folder / MODEL).unlink()
        make(folder / MODEL)

    return alter


def future_manifest(folder: Path, marker: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "version": 99}, indent=2) + "\n")


_NO_TENSORS = "damaged or not a safetensors"
_OWNERS = "state__owners"
_LOAD = ("load",)

FORGERIES: dict[str, Forgery] = {
    "pickle as weights": Forgery(in_place_of(MODEL), "announces a header of"),
    "pickle as state": Forgery(in_place_of(STATE), "is not JSON"),
    "pickle beside": Forgery(beside, "model.pt is not part of a checkpoint"),
    "pickle as checkpoint": Forgery(no_folder, "expected a", hashed=False),
    "zip behind tensors": Forgery(zip_behind, _NO_TENSORS),
    "zip in a tensor": Forgery(zip_inside, "does not fit"),
    "giant header": Forgery(model_file(struct.pack("<Q", 1 << 62) + b"{}"), "announces a header of"),
    "header of 100 MB": Forgery(model_file(struct.pack("<Q", 100 << 20) + b"{"), "announces a header of"),
    "deep header": Forgery(model_file(raw(b'{"a":' + b"[" * 1_000_000)), _NO_TENSORS),
    "header full of tensors": Forgery(model_file(crowded), _NO_TENSORS),
    "overlapping tensors": Forgery(
        model_file(raw({"a": entry(0, 8, 2), "b": entry(4, 12, 2)}, bytes(12))), _NO_TENSORS
    ),
    "hole": Forgery(model_file(raw({"a": entry(4, 8, 1)}, bytes(8))), _NO_TENSORS),
    "giant shape": Forgery(model_file(raw({"a": entry(0, 4, 10**12)}, b"0000")), _NO_TENSORS),
    "overflowing shape": Forgery(model_file(raw({"a": entry(0, 4, 2**40, 2**40)}, b"0000")), _NO_TENSORS),
    "weight of another shape": Forgery(other_shape, "does not fit", ways=("resume",)),
    "path traversal": Forgery(manifest("../evil"), "'../evil' is not a valid file name", hashed=False),
    "absolute path": Forgery(manifest("/etc/passwd"), "'/etc/passwd' is not a valid file name", hashed=False),
    "reference outside": Forgery(
        state(**{f"{_OWNERS}__meter__loss": {"$tensor": "../../etc"}}), "../../etc", ways=("resume",)
    ),
    "link": Forgery(linked, "is not a plain file"),
    "device": Forgery(
        instead(lambda path: path.symlink_to("/dev/zero")), "is not a plain file", hashed=False
    ),
    "pipe": Forgery(instead(os.mkfifo), "is not a plain file", hashed=False),
    "folder": Forgery(instead(Path.mkdir), "is not a plain file", hashed=False),
    "future manifest": Forgery(future_manifest, "of version 99", hashed=False),
    "future state": Forgery(state(version=99), "of version 99"),
    "other format": Forgery(state(format="keras"), "its format is 'keras'"),
    "deep JSON": Forgery(text(b"[" * 5_000_000), "is not JSON"),
    "big JSON": Forgery(text(b" " * (7 << 20)), "are expected"),
    "many empties": Forgery(text(b"[" + b"{}," * 2_000_000 + b"{}]"), "holds a JSON list"),
    "giant number": Forgery(text(b'{"format": ' + b"9" * 5_000_000 + b"}"), "is not JSON"),
    "state of another kind": Forgery(state(state=[1]), "lacks a part"),
    "unknown blueprint": Forgery(seed(blueprint="os.system"), "unknown blueprint"),
    "giant seed": Forgery(seed(blueprint="conv_heavy", options={"hidden": 2 * 10**6}), "does not fit"),
    "gigantic seed": Forgery(seed(blueprint="conv_heavy", options={"hidden": 10**12}), "does not fit"),
    "seed of another kind": Forgery(seed(blueprint="mlp"), "does not fit"),
    "seed at no layer": Forgery(seed(layer="block9.__class__"), "does not fit"),
    "seed index beyond": Forgery(seed(index=10**9), "does not fit"),
    "stage of no seed": Forgery(seed(stage="rm -rf"), "does not fit"),
    "giant host": Forgery(
        state(state__run__config__model__model_params={"widths": [4, 2 * 10**6]}), "does not fit", ways=_LOAD
    ),
    "target in the configuration": Forgery(
        state(state__run__config__model={"architecture": "os.system", "model_params": {"command": "id"}}),
        "os.system",
        ways=_LOAD,
    ),
    "target allowed by itself": Forgery(
        partial(
            lambda folder, marker: (
                state(state__run__config__allowed_targets=["os", "pathlib"])(folder, marker),
                state(state__run__config__model__architecture="pathlib.Path.touch")(folder, marker),
            )
        ),
        "pathlib.Path.touch",
        ways=_LOAD,
    ),
    "progress of text": Forgery(
        state(**{f"{_OWNERS}__run__progress": {"step": "1"}}), "does not fit", ways=("resume",)
    ),
}
