from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.errors import GrowthError
from esper.kasmina.kernels import Kernel, KernelCache, KernelStore

META: dict[str, Any] = {"blueprint": "mlp", "options": {"hidden": 8}, "score": 0.25}


def kernel(seed: int = 0, size: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, 3, generator=generator)
    return {"weight": weight, "turned": weight.t(), "tied": weight, "steps": torch.tensor(3)}


def test_round_trip_by_content(tmp_path: Path) -> None:
    """Content-addressed safetensors."""
    store = KernelStore(tmp_path / "kernels")
    artifact = store.put(kernel(), META)
    (path,) = store.folder.iterdir()
    assert path.name == f"{artifact}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == artifact
    tensors, metadata = store.fetch(artifact)
    assert metadata == META
    assert tensors.keys() == kernel().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in kernel().items())


def test_the_same_content_has_one_id(tmp_path: Path) -> None:
    store = KernelStore(tmp_path)
    ids = {
        store.put(kernel(), META),
        store.put(dict(reversed(kernel().items())), dict(reversed(META.items()))),
    }
    # which of two names of a tensor comes first is no part of the content
    ids.add(KernelStore(tmp_path / "other").put(kernel(), META))
    assert len(ids) == 1
    assert len({*ids, store.put(kernel(1), META), store.put(kernel(), {})}) == 3


def test_a_damaged_kernel_is_refused_and_can_be_put_again(tmp_path: Path) -> None:
    """Any flipped bit."""
    store = KernelStore(tmp_path)
    artifact = store.put(kernel(), META)
    path = tmp_path / f"{artifact}.safetensors"
    data = bytearray(path.read_bytes())
    for bit in range(0, 8 * len(data), 97):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(GrowthError, match=f"kernel {artifact} is damaged"):
            store.fetch(artifact)
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(b"")
    assert store.put(kernel(), META) == artifact
    store.fetch(artifact)


@pytest.mark.parametrize("artifact", ["", "abc", "../" * 20 + "etc/passwd", "A" * 64, "0" * 63 + "\n"])
def test_what_is_no_id_is_refused(tmp_path: Path, artifact: str) -> None:
    """An id never names a path."""
    with pytest.raises(GrowthError, match="no kernel's id; expected a SHA-256"):
        KernelStore(tmp_path).fetch(artifact)


def test_unknown_ids_are_named(tmp_path: Path) -> None:
    with pytest.raises(GrowthError, match=f"there is no kernel {'0' * 64} in"):
        KernelStore(tmp_path / "absent").fetch("0" * 64)


def test_a_file_under_its_right_hash_that_is_no_kernel(tmp_path: Path) -> None:
    data = b"\x80\x04."
    artifact = hashlib.sha256(data).hexdigest()
    (tmp_path / f"{artifact}.safetensors").write_bytes(data)
    with pytest.raises(GrowthError, match=f"kernel {artifact} cannot be read"):
        KernelStore(tmp_path).fetch(artifact)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [({"w": torch.eye(2).to_sparse()}, {}), ({}, {"a": object()}), ({"__metadata__": torch.ones(1)}, {})],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, tensors: Any, metadata: Any) -> None:
    with pytest.raises(GrowthError, match="could not be stored"):
        KernelStore(tmp_path).put(tensors, metadata)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GrowthError, match="could not be stored"):
        KernelStore(tmp_path / "file").put(kernel(), META)


KB = 1 / 1024  # in the cache's MB


class Shelf:
    """A source in memory that hands out its own tensors; kernel `k<n>` has n kB."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.kernels: dict[str, Kernel] = {}

    def fetch(self, artifact_id: str) -> Kernel:
        self.fetched.append(artifact_id)
        if not artifact_id.startswith("k"):
            raise GrowthError(f"there is no kernel {artifact_id}")
        size = int(artifact_id[1:].split("-")[0])
        return self.kernels.setdefault(artifact_id, ({"w": torch.full((256 * size,), 1.0)}, {"list": [size]}))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_hits_misses_and_latency() -> None:
    """Counted, by the clock that was passed in."""
    shelf = Shelf()
    cache = KernelCache(shelf, 4 * KB, clock=Clock())
    for artifact in ("k1", "k1", "k2", "k1"):
        cache.fetch(artifact)
    assert shelf.fetched == ["k1", "k2"]
    assert cache.stats() == {
        "hits": 2,
        "misses": 2,
        "kernels": 2,
        "size_bytes": 3 * 1024,
        "last_latency_ms": pytest.approx(1),
        "mean_latency_ms": pytest.approx(1),
    }


def test_the_one_unused_for_longest_goes() -> None:
    shelf = Shelf()
    cache = KernelCache(shelf, 3 * KB)
    for artifact in ("k1-a", "k1-b", "k1-c", "k1-a", "k1-d"):
        cache.fetch(artifact)
    shelf.fetched.clear()
    for artifact in ("k1-a", "k1-c", "k1-d"):
        cache.fetch(artifact)
    assert shelf.fetched == []
    cache.fetch("k1-b")
    assert shelf.fetched == ["k1-b"]


def test_a_kernel_over_the_cap_is_served_but_not_kept() -> None:
    shelf = Shelf()
    cache = KernelCache(shelf, 2 * KB)
    cache.fetch("k1")
    tensors, _ = cache.fetch("k3")
    assert tensors["w"].numel() == 3 * 256
    assert cache.size_bytes == 1024
    cache.fetch("k1")
    cache.fetch("k3")
    assert shelf.fetched == ["k1", "k3", "k3"]
    empty = KernelCache(shelf, 0)
    empty.fetch("k1")
    assert empty.size_bytes == 0


def test_an_error_of_the_source_passes_through_and_keeps_nothing() -> None:
    cache = KernelCache(Shelf(), 2 * KB)
    with pytest.raises(GrowthError, match="no kernel x"):
        cache.fetch("x")
    assert cache.size_bytes == 0


def test_no_module_shares_memory_with_the_cache() -> None:
    shelf = Shelf()
    cache = KernelCache(shelf, 4 * KB)
    first, metadata = cache.fetch("k1")
    first["w"].zero_()
    metadata["list"].append("mine")
    shelf.kernels["k1"][0]["w"].fill_(5)
    again, untouched = cache.fetch("k1")
    assert again["w"].eq(1).all()
    assert untouched == {"list": [1]}
    again["w"].zero_()
    assert cache.fetch("k1")[0]["w"].eq(1).all()


def test_views_are_counted_by_what_they_hold() -> None:
    class Views:
        def fetch(self, artifact_id: str) -> Kernel:
            base = torch.zeros(1000, 256)
            return {"row": base[1], "expanded": torch.zeros(1).expand(256)}, {}

    cache = KernelCache(Views(), 2 * KB)
    cache.fetch("a")
    assert cache.size_bytes == 2 * 1024


@given(asked=st.lists(st.integers(1, 6), max_size=30), cap=st.integers(0, 9))
def test_the_cache_is_an_lru_bounded_in_bytes(asked: list[int], cap: int) -> None:
    """Against a model of one: what is kept, its size, hits and misses."""
    shelf = Shelf()
    cache = KernelCache(shelf, cap * KB)
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for size in asked:
        cache.fetch(f"k{size}")
        if size in kept:
            hits += 1
            kept.move_to_end(size)
        elif size <= cap:
            while sum(kept) + size > cap:
                kept.popitem(last=False)
            kept[size] = None
        assert cache.size_bytes == 1024 * sum(kept) <= cap * 1024
    stats = cache.stats()
    assert (stats["hits"], stats["misses"], stats["kernels"]) == (hits, len(asked) - hits, len(kept))
