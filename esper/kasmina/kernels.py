"""Kernels (trained weights of a blueprint): a store on disk addressed by content, and a memory cache."""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from esper.errors import CheckpointError, GrowthError
from esper.utils.files import write_bytes_atomic
from esper.utils.manifest import hash_file
from esper.utils.safetensors import load_tensors, tensor_bytes

Kernel = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and metadata

_ID = re.compile(r"[0-9a-f]{64}")
_MB = 1 << 20


class KernelSource(Protocol):
    """Interface of a source of kernels: a store on disk, or a remote library."""

    def fetch(self, artifact_id: str) -> Kernel:
        """Return tensors by name, and the metadata; raises `GrowthError` for an unknown id."""
        ...


class KernelStore:
    """A folder of kernels, each a safetensors file named by the SHA-256 of its bytes.

    Args:
        folder: the folder.

    Example:
        >>> store = KernelStore(Path("kernels"))
        >>> artifact_id = store.put(*extract(model, "fc1", 0))  # doctest: +SKIP
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
        """Store a kernel durably.

        Args:
            tensors: tensors by name.
            metadata: JSON types.

        Returns:
            The id; the same content has the same id.

        Raises:
            GrowthError: the kernel cannot be stored.
        """
        try:
            data = tensor_bytes(tensors, metadata)
            artifact_id = hashlib.sha256(data).hexdigest()
            write_bytes_atomic(self._path(artifact_id), data)
        except (CheckpointError, TypeError, OSError) as error:
            raise GrowthError(f"a kernel could not be stored in {self.folder}: {error}") from error
        return artifact_id

    def fetch(self, artifact_id: str) -> Kernel:
        """Read a kernel and verify it against its id.

        Args:
            artifact_id: what `put` returned.

        Returns:
            Tensors by name, on the CPU, and the metadata.

        Raises:
            GrowthError: the id is unknown, or the file is damaged.
        """
        path = self._path(artifact_id)
        if not path.is_file():
            raise GrowthError(f"there is no kernel {artifact_id} in {self.folder}")
        try:
            found = hash_file(path).sha256
            if found != artifact_id:
                raise GrowthError(f"kernel {artifact_id} is damaged: its content is {found}")
            return load_tensors(path)
        except (CheckpointError, OSError) as error:
            raise GrowthError(f"kernel {artifact_id} cannot be read: {error}") from error

    def _path(self, artifact_id: str) -> Path:
        if not _ID.fullmatch(artifact_id):
            raise GrowthError(
                f"{artifact_id!r} is no kernel's id; expected a SHA-256 in 64 hexadecimal digits"
            )
        return self.folder / f"{artifact_id}.safetensors"


class KernelCache:
    """An LRU memory cache in front of a slower kernel source. Not thread-safe.

    Args:
        source: where missing kernels are fetched.
        capacity_mb: size of the cached tensors, in units of 2**20 bytes.
        clock: returns seconds.

    Example:
        >>> cache = KernelCache(KernelStore(Path("kernels")), capacity_mb=64)
        >>> cache.stats()["hits"]
        0
    """

    def __init__(
        self, source: KernelSource, capacity_mb: float, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.capacity_bytes = int(capacity_mb * _MB)
        self.size_bytes = 0
        self._source = source
        self._clock = clock
        self._entries: OrderedDict[str, Kernel] = OrderedDict()
        self._hits = self._misses = 0
        self._last_s = self._total_s = 0.0

    def fetch(self, artifact_id: str) -> Kernel:
        """Return copies of a kernel's tensors and metadata, from memory where possible.

        Args:
            artifact_id: id of the kernel.

        Raises:
            GrowthError: what the source raises.
        """
        start = self._clock()
        kernel = self._entries.get(artifact_id)
        if kernel is None:
            self._misses += 1
            kernel = _copy(self._source.fetch(artifact_id))
            self._insert(artifact_id, kernel)
        else:
            self._hits += 1
            self._entries.move_to_end(artifact_id)
        result = _copy(kernel)
        self._last_s = self._clock() - start
        self._total_s += self._last_s
        return result

    def stats(self) -> dict[str, float]:
        """Return hits, misses, number and bytes of cached kernels, and last and mean latency in ms."""
        served = self._hits + self._misses
        return {
            "hits": self._hits,
            "misses": self._misses,
            "kernels": len(self._entries),
            "size_bytes": self.size_bytes,
            "last_latency_ms": 1e3 * self._last_s,
            "mean_latency_ms": 1e3 * self._total_s / max(1, served),
        }

    def _insert(self, artifact_id: str, kernel: Kernel) -> None:
        size = _size_bytes(kernel)
        if size > self.capacity_bytes:
            return
        while self.size_bytes + size > self.capacity_bytes:
            self.size_bytes -= _size_bytes(self._entries.popitem(last=False)[1])
        self._entries[artifact_id] = kernel
        self.size_bytes += size


def _copy(kernel: Kernel) -> Kernel:
    tensors, metadata = kernel
    # one at a time and dense, so that each owns exactly its bytes
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, copy.deepcopy(
        metadata
    )


def _size_bytes(kernel: Kernel) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in kernel[0].values())
