from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import esper
from esper.errors import CheckpointError, ConfigError
from esper.utils.device_and_rng import (
    derive_seed,
    resolve_device,
    restore_rng_state,
    rng_state,
    seed_everything,
    seeded_rng,
    set_deterministic,
    set_threads,
    versions,
)
from esper.utils.safetensors import load_tensors, save_tensors

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was() -> Iterator[None]:
    states, threads = rng_state(), torch.get_num_threads()
    yield
    restore_rng_state(*states)
    torch.set_num_threads(threads)
    set_deterministic(False)


def draws() -> list[float]:
    """Something from every generator; normal draws leave a spare value behind in two of them."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
        float(torch.randn(7).sum()),
    ]


def test_cpu_and_auto() -> None:
    assert resolve_device("cpu") == CPU == resolve_device("cpu:0")
    device = resolve_device("auto")
    assert torch.ones(1, device=device).device == device


@pytest.mark.parametrize("name", ["gpu", "", "cpu:-1", "cuda:x"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"device is '{name}', which is not a device; expected one of auto.*cpu"
    ):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cpu:1", "meta", "cuda:99", "xla"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    """Nothing moves silently to another device."""
    with pytest.raises(ConfigError, match=f"device is '{name}', which this machine does not have"):
        resolve_device(name)


@needs_no_cuda
def test_no_cuda_here() -> None:
    with pytest.raises(
        ConfigError, match=r"'cuda', which this machine does not have; expected one of auto.*cpu"
    ):
        resolve_device("cuda")


@needs_cuda
def test_cuda_has_its_index() -> None:
    assert resolve_device("cuda") == torch.ones(1, device="cuda").device == resolve_device("auto")


def test_threads() -> None:
    """The count in use is known, and set again."""
    before = torch.get_num_threads()
    assert set_threads(None) == before == torch.get_num_threads()
    assert set_threads(before + 1) == before + 1 == torch.get_num_threads()


def test_versions() -> None:
    found = versions()
    assert list(found) == ["python", "torch", "esper", "hydra", "numpy"]
    assert found["python"] == platform.python_version()
    assert found["esper"] == esper.__version__
    assert found["hydra"].startswith("1.3")


def test_seeding_fixes_every_generator() -> None:
    seed_everything(2**40 + 7)
    first = draws()
    seed_everything(2**40 + 7)
    assert draws() == first
    seed_everything(8)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_generators_go_on_where_they_stood(tmp_path: Path) -> None:
    """Also through a file and JSON, and with a spare normal value pending."""
    seed_everything(1)
    draws()
    random.gauss(0, 1), np.random.randn()
    tensors, meta = rng_state()
    expected = [draws() for _ in range(3)]
    save_tensors(tmp_path / "rng.safetensors", tensors)
    seed_everything(2)
    loaded, _ = load_tensors(tmp_path / "rng.safetensors")
    assert restore_rng_state(loaded, json.loads(json.dumps(meta))) == []
    assert [draws() for _ in range(3)] == expected


def test_generators_of_other_devices_are_reported() -> None:
    tensors, meta = rng_state()
    strange = {**tensors, "torch.cuda:9": torch.zeros(16, dtype=torch.uint8)}
    assert restore_rng_state(strange, meta) == ["the generator of cuda:9 was saved, but is not here"]
    del strange["torch.cpu"], strange["torch.cuda:9"]
    assert "the generator of cpu was not saved" in restore_rng_state(strange, meta)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("python", torch.zeros(3, dtype=torch.int64)),
        ("python", torch.full((625,), -1)),
        ("python", None),
        ("numpy", torch.zeros(3, dtype=torch.int64)),
        ("numpy", None),
        ("torch.cpu", torch.zeros(3, dtype=torch.uint8)),
        ("torch.cpu", torch.zeros(3)),
    ],
)
def test_damaged_states_are_refused(name: str, broken: Tensor | None) -> None:
    tensors, meta = rng_state()
    if broken is None:
        del tensors[name]
    else:
        tensors[name] = broken
    with pytest.raises(CheckpointError, match="not whole"):
        restore_rng_state(tensors, meta)


@pytest.mark.parametrize("pos", [-1, 625, 10**9, None])
def test_numpy_never_reads_beyond_its_state(pos: int | None) -> None:
    tensors, meta = rng_state()
    with pytest.raises(CheckpointError, match="not whole"):
        restore_rng_state(tensors, {**meta, "numpy": {**meta["numpy"], "pos": pos}})


def test_another_numpy_generator_cannot_be_saved() -> None:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(0))
    try:
        with pytest.raises(CheckpointError, match="NumPy's generator is PCG64"):
            rng_state()
    finally:
        np.random.set_bit_generator(before)


def test_a_seeded_block_repeats_and_disturbs_nothing() -> None:
    """Dropout of a seed draws the same, whatever ran before, and the host's is as without it."""
    dropout, x = nn.Dropout(0.5), torch.ones(100)
    torch.manual_seed(0)
    expected = [torch.rand(3), torch.rand(3)]
    torch.manual_seed(0)
    got = [torch.rand(3)]
    with seeded_rng(7, CPU):
        first = dropout(x)
        with seeded_rng(8, CPU):
            other = dropout(x)
        after = dropout(x)
    got.append(torch.rand(3))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    with seeded_rng(7, CPU):
        assert torch.equal(dropout(x), first)
        assert torch.equal(dropout(x), after)
    assert not torch.equal(first, other)


def test_a_seeded_block_that_raises_restores_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded_rng(7, CPU):
        torch.rand(3)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seeded_block_is_cheap() -> None:
    """The step may use it: tens of microseconds; the bound leaves room for a busy machine."""

    def once() -> float:
        began = time.perf_counter()
        for _ in range(100):
            with seeded_rng(7, CPU):
                pass
        return (time.perf_counter() - began) / 100

    assert min(once() for _ in range(5)) < 200e-6


@needs_cuda
def test_a_seeded_block_waits_for_no_device() -> None:
    device = torch.device("cuda", 0)
    x = torch.ones(100, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        before = torch.cuda.get_rng_state(0)
        with seeded_rng(7, device):
            first = torch.nn.functional.dropout(x)
        with seeded_rng(7, device):
            again = torch.nn.functional.dropout(x)
        assert torch.equal(torch.cuda.get_rng_state(0), before)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)


def test_deterministic_is_switched_on_and_off() -> None:
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


parts = st.lists(st.integers(0, 10**6) | st.sampled_from(["order", "augment"]), min_size=1, max_size=4)


@given(parts, parts)
def test_different_parts_give_different_seeds(one: list[int | str], other: list[int | str]) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == ([str(p) for p in one] == [str(p) for p in other])


def test_a_seed_never_changes() -> None:
    """A saved run is resumed by a later version: the value is part of the format."""
    assert derive_seed(0, "order", 3) == 228291028133782092
    assert 0 <= derive_seed("x") < 2**63
