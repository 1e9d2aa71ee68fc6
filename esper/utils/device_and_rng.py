"""Settings of the process: device, threads, determinism and random number generators."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper import __version__
from esper.errors import CheckpointError, ConfigError

_PYTHON_WORDS = 625  # the words of the Mersenne Twister, and its position
_NUMPY_WORDS = 624  # the same generator; its position is separate
_TORCH = "torch."  # the prefix of torch's generators in a saved state


def resolve_device(name: str) -> torch.device:
    """The device of this name, with its index; `auto` is the first available of cuda, mps and cpu.

    Raises:
        ConfigError: there is no device of this name, or this machine does not have it.
    """
    here = _available()
    if name == "auto":
        return here[0]
    known = ", ".join(["auto", *map(str, here)])
    try:
        device = _with_index(torch.device(name))
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}, which is not a device; expected one of {known}") from error
    if device not in here:
        raise ConfigError(f"device is {name!r}, which this machine does not have; expected one of {known}")
    return device


def set_threads(count: int | None) -> int:
    """Set the number of torch's threads (None: unchanged); returns the number in use."""
    if count is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def set_deterministic(flag: bool) -> None:
    """Make torch use deterministic algorithms only, or any.

    Call it before the first CUDA operation of the process: cuBLAS reads its setting once.
    """
    if flag:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(flag)
    torch.backends.cudnn.deterministic = flag


def versions() -> dict[str, str]:
    """The versions that the results of a run may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "esper": __version__,
        "hydra": importlib.metadata.version("hydra-core"),
        "numpy": np.__version__,
    }


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (on all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of all global generators: tensors, and JSON for the rest.

    Generators of CUDA devices are included once the process has used CUDA.

    Raises:
        CheckpointError: NumPy uses another generator than MT19937.
    """
    version, python, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    if numpy["bit_generator"] != "MT19937":
        raise CheckpointError(f"NumPy's generator is {numpy['bit_generator']}; only MT19937 can be saved")
    tensors = {f"{_TORCH}{device}": _get(device) for device in _generators()}
    tensors["python"] = torch.from_numpy(np.array(python, dtype=np.int64))
    tensors["numpy"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    rest = {name: numpy[name] for name in ("has_gauss", "gauss")}
    meta = {"version": version, "gauss": gauss}
    return tensors, {"python": meta, "numpy": {"pos": int(numpy["state"]["pos"]), **rest}}


def restore_rng_state(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> list[str]:
    """Restore a state of `rng_state`.

    Returns:
        A message for each generator that is only in the saved state or only in this process; if there is one,
        the run does not repeat exactly.

    Raises:
        CheckpointError: the state is incomplete.
    """
    saved = {name.removeprefix(_TORCH): state for name, state in tensors.items() if name.startswith(_TORCH)}
    here = _generators()
    try:
        _restore_python(tensors["python"], meta["python"])
        _restore_numpy(tensors["numpy"], meta["numpy"])
        for device in here:
            if device in saved:
                _set(device, saved[device])
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"the saved state of the random generators is not whole: {error!r}") from error
    missing = (f"the generator of {name} was saved, but is not here" for name in saved if name not in here)
    return [*missing, *(f"the generator of {name} was not saved" for name in here if name not in saved)]


@contextmanager
def seeded_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block torch's generators of the CPU and `device` are seeded; afterwards they are restored.

    Copies a few kilobytes on the CPU and does not synchronise with a device.
    """
    devices = ["cpu"] if device.type == "cpu" else ["cpu", str(device)]
    before = {name: _get(name) for name in devices}
    try:
        for name in devices:
            _set(name, torch.Generator(name).manual_seed(seed).get_state())
        yield
    finally:
        for name, state in before.items():
            _set(name, state)


def _available() -> list[torch.device]:
    """The devices that this process can use, fastest first."""
    names = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        names.append("mps:0")
    return [torch.device(name) for name in [*names, "cpu"]]


def _with_index(device: torch.device) -> torch.device:
    """The device with the index that tensors on it have, so that devices can be compared."""
    if device.type == "cpu":
        return torch.device("cpu") if not device.index else device
    if device.index is not None:
        return device
    current = torch.cuda.current_device() if device.type == "cuda" and torch.cuda.is_initialized() else 0
    return torch.device(device.type, current)


def _generators() -> list[str]:
    """Devices whose generators can be read without initialising a device."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    mps = ["mps:0"] if torch.backends.mps.is_available() else []
    return ["cpu", *(f"cuda:{index}" for index in cuda), *mps]


def _get(device: str) -> Tensor:
    return _module(device).get_rng_state(*_index(device))


def _set(device: str, state: Tensor) -> None:
    _module(device).set_rng_state(state.cpu(), *_index(device))


def _module(device: str) -> Any:
    return torch if device == "cpu" else getattr(torch, device.partition(":")[0])


def _index(device: str) -> tuple[str, ...]:
    return (device,) if device.startswith("cuda") else ()


def _restore_python(words: Tensor, meta: Mapping[str, Any]) -> None:
    if words.shape != (_PYTHON_WORDS,):
        # checked first: converting them to a list takes many times their memory
        raise ValueError(f"Python's state has shape {tuple(words.shape)}, not ({_PYTHON_WORDS},)")
    random.setstate((meta["version"], tuple(words.tolist()), meta["gauss"]))


def _restore_numpy(words: Tensor, meta: Mapping[str, Any]) -> None:
    key = words.cpu().numpy().astype(np.uint32)
    if key.shape != (_NUMPY_WORDS,):
        raise ValueError(f"NumPy's state has shape {key.shape}, not ({_NUMPY_WORDS},)")
    if not 0 <= meta["pos"] <= len(key):
        # NumPy does not check it and would read beyond the end of its state
        raise ValueError(f"position {meta['pos']} in NumPy's state of {len(key)} numbers")
    np.random.set_state(("MT19937", key, meta["pos"], meta["has_gauss"], meta["gauss"]))


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on all parts and their order, equal on all machines.

    Seeds of different parts (the run's seed and a purpose) give independent random streams.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
