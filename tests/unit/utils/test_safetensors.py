from __future__ import annotations

import errno
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from esper.errors import CheckpointError
from esper.utils.files import Content, Files
from esper.utils.open_files import opened_file
from esper.utils.safetensors import (
    HEADER_LIMIT_BYTES,
    check_tensors,
    load_tensors,
    save_tensors,
    tensor_bytes,
    write_tensors_atomic,
)

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def bits(tensor: Tensor) -> list[int]:
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).tolist()


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype and rank up to 4, random bits (NaN and denormals too), contiguous or not."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    values = torch.tensor(list(raw), dtype=torch.uint8)
    if dtype is torch.bool:
        values = values % 2
    tensor = values.view(dtype).reshape(shape)
    match draw(st.integers(0, 3)):
        case 1:
            return tensor.permute(list(reversed(range(tensor.dim()))))
        case 2 if tensor.dim():
            return tensor[..., ::2]
        case 3 if tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda name: name != "__metadata__"
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=st.dictionaries(names, tensors(), max_size=4))
def test_round_trip_bit_for_bit(tmp_path: Path, given: dict[str, Tensor]) -> None:
    """Strides, 0-dim, empty, every dtype, any bits; another reader of the format agrees."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, given, {"note": [1, None, "ü"]})
    loaded, metadata = load_tensors(path)
    assert metadata == {"note": [1, None, "ü"]}
    assert loaded.keys() == given.keys()
    assert all(same(loaded[name], given[name]) for name in given)
    assert all(same(tensor, given[name]) for name, tensor in safetensors.torch.load_file(path).items())
    check_tensors(path)


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    """Safetensors itself refuses shared memory."""
    embedding, head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"embedding": embedding.weight, "head": head.weight})
    assert path.stat().st_size < 1.5 * 50 * 8 * 4
    loaded, _ = load_tensors(path)
    assert loaded["embedding"] is loaded["head"]
    assert same(loaded["head"], head.weight)


def test_views_of_one_storage_are_stored_apart(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    z = torch.tensor([1 + 2j, 3 - 4j])
    views = {"all": base, "row": base[1], "flat": base.view(-1), "column": base[:, 1], "end": base[2]}
    views |= {"z": z, "conjugate": z.conj(), "imaginary": z.conj().imag, "plain": z.imag}
    save_tensors(tmp_path / "a.safetensors", views)
    loaded, _ = load_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(loaded[name], views[name]) for name in views)
    loaded["all"].zero_()
    assert torch.equal(loaded["row"], base[1])


def test_loaded_tensors_do_not_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(1000)})
    loaded, _ = load_tensors(path)
    with path.open("r+b") as file:
        file.truncate(0)
    assert loaded["a"].sum() == 1000


def test_equal_content_is_equal_bytes() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.int64)
    first = tensor_bytes({"a": a, "b": b}, {"x": 1, "y": {"z": 2}})
    again = tensor_bytes({"b": b.clone(), "a": a.t().contiguous().t()}, {"y": {"z": 2}, "x": 1})
    assert first == again
    assert first != tensor_bytes({"a": a, "b": b}, {"x": 2, "y": {"z": 2}})


@pytest.mark.parametrize(
    ("name", "tensor", "sentence"),
    [
        ("w", torch.zeros(1, dtype=torch.complex128), "'w' cannot be saved: its dtype is torch.complex128"),
        ("w", torch.eye(2).to_sparse(), "sparse"),
        ("w", torch.zeros(2, device="meta"), "without data"),
        ("__metadata__", torch.zeros(2), "'__metadata__'"),
    ],
)
def test_what_cannot_be_held_is_named(tmp_path: Path, name: str, tensor: Tensor, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        save_tensors(tmp_path / "a.safetensors", {name: tensor})


def test_a_failing_disk_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        save_tensors(tmp_path / "absent" / "a.safetensors", {"a": torch.ones(1)})


def test_more_names_than_can_be_read_again_are_refused(tmp_path: Path) -> None:
    many = {f"{i:02000d}": torch.empty(0) for i in range(5000)}
    with pytest.raises(CheckpointError, match="5000 names are more than one file can hold"):
        save_tensors(tmp_path / "a.safetensors", many)


def raw(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(begin: int, end: int, shape: list[int]) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


def alias(content: object) -> bytes:
    note = {"__metadata__": {"esper": json.dumps(content)}, "a": entry(0, 4, [1])}
    return raw(note, b"0000")


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "pickle": lambda: b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    "huge header": lambda: struct.pack("<Q", 1 << 62) + b"{}",
    "header of 100 MB": lambda: struct.pack("<Q", 100 << 20) + b"{" * 100,
    "header beyond the file": lambda: struct.pack("<Q", 1000) + b"{}",
    "deep header": lambda: raw(b'{"a":' + b"[" * 1_000_000),
    "giant shape": lambda: raw({"a": entry(0, 4, [10**12])}, b"0000"),
    "overflowing shape": lambda: raw({"a": entry(0, 4, [2**40, 2**40])}, b"0000"),
    "overlap": lambda: raw({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
    "hole": lambda: raw({"a": entry(4, 8, [1])}, bytes(8)),
    "zip behind it": lambda: raw({"a": entry(0, 4, [1])}, b"0000PK\x05\x06" + bytes(18)),
    "alias of nothing": lambda: alias({"aliases": {"b": "c"}}),
    "alias over a tensor": lambda: alias({"aliases": {"a": "a"}}),
    "note of another kind": lambda: alias([1]),
    "aliases of another kind": lambda: alias({"aliases": 3}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    """At once, and before anything is read that could be big."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE[kind]())
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        load_tensors(path)
    if "alias" not in kind and "note" not in kind:
        with pytest.raises(CheckpointError, match=r"a\.safetensors"):
            check_tensors(path)


def test_headers_are_bounded_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for size, message in (
        (HEADER_LIMIT_BYTES, "damaged or not"),
        (HEADER_LIMIT_BYTES + 1, "at most 8388608"),
    ):
        path.write_bytes(struct.pack("<Q", size))
        with pytest.raises(CheckpointError, match=message):
            check_tensors(path)


@pytest.mark.parametrize("name", ["model.pt", "model", "model.bin"])
def test_other_formats_are_never_read(tmp_path: Path, name: str) -> None:
    """Nothing is ever unpickled."""
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
        load_tensors(tmp_path / name)


def test_one_file_is_written_in_one_step_for_readers_that_know_nothing_of_us(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    tensors = {"a": weight, "tied": weight, "view": weight[1:], "turned": weight.t(), "n": torch.tensor(3)}
    path = tmp_path / "models" / "final.safetensors"
    write_tensors_atomic(path, tensors, {"format": "pt", "made": "today"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "made": "today"}
        assert set(file.keys()) == set(tensors)
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_where_it_cannot_be_written_the_old_one_stands(tmp_path: Path) -> None:
    """At every call."""

    class Full(Files):
        def __init__(self, fail_at: int) -> None:
            self.fail_at, self.calls = fail_at, 0

        def _call(self) -> None:
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")

        def write(self, path: Path, content: Content) -> None:
            super().write(path, content)
            self._call()

        def fsync(self, path: Path) -> None:
            self._call()

        def rename(self, old: Path, new: Path) -> None:
            self._call()
            super().rename(old, new)

    path = tmp_path / "final.safetensors"
    write_tensors_atomic(path, {"a": torch.zeros(2)})
    old = path.read_bytes()
    for k in (1, 2, 3):
        io = Full(k)
        with pytest.raises(OSError, match="No space left"):
            write_tensors_atomic(path, {"a": torch.ones(2)}, io=io)
        assert io.calls == k
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CheckpointError, match="sparse"):
        write_tensors_atomic(path, {"a": torch.eye(2).to_sparse()})


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    """A run that ends replaces its final model; a reader that has opened it reads one of the two."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"w": torch.zeros(5)}, {"n": 0})
    with opened_file(path) as old:
        write_tensors_atomic(path, {"w": torch.ones(500)})
        tensors, metadata = load_tensors(old)
        check_tensors(old)
    assert metadata == {"n": 0} and torch.equal(tensors["w"], torch.zeros(5))
    assert torch.equal(load_tensors(path)[0]["w"], torch.ones(500))
