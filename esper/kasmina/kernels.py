"""Kernels: trained weights of a blueprint, stored by their content and cached in memory."""

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
    """Somebody who has kernels: a store on disk, or a library elsewhere."""

    def fetch(self, artifact_id: str) -> Kernel: ...


class KernelStore:
    """A folder of kernels, each a safetensors file under the SHA-256 of its bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
        """Store a kernel durably and return its id; the same content has the same id.

        `metadata` is JSON. Raises `GrowthError` for what cannot be stored.
        """
        try:
            data = tensor_bytes(tensors, metadata)
            artifact_id = hashlib.sha256(data).hexdigest()
            write_bytes_atomic(self._path(artifact_id), data)
        except (CheckpointError, TypeError, OSError) as error:
            raise GrowthError(f"a kernel could not be stored in {self.folder}: {error}") from error
        return artifact_id

    def fetch(self, artifact_id: str) -> Kernel:
        """Tensors, on the CPU, and metadata of a kernel, verified against its id.

        Raises `GrowthError` for an id that is unknown and for a file that is damaged.
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
    """The kernels used last, in memory, in front of a slower source.

    Holds at most `capacity_mb` (of 2**20 bytes) of tensors and gives up the one unused for longest first.
    `clock` gives seconds. Not for use by several threads at once.
    """

    def __init__(
        self, source: KernelSource, capacity_mb: float, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.capacity_bytes = int(capacity_mb * _MB)
        self.size_bytes = 0
        self._source = source
        self._clock = clock
        self._kept: OrderedDict[str, Kernel] = OrderedDict()
        self._hits = self._misses = 0
        self._last_s = self._total_s = 0.0

    def fetch(self, artifact_id: str) -> Kernel:
        """Copies of a kernel's tensors and metadata, from memory where it is kept.

        Raises what the source raises.
        """
        began = self._clock()
        kernel = self._kept.get(artifact_id)
        if kernel is None:
            self._misses += 1
            kernel = _copy(self._source.fetch(artifact_id))
            self._keep(artifact_id, kernel)
        else:
            self._hits += 1
            self._kept.move_to_end(artifact_id)
        result = _copy(kernel)
        self._last_s = self._clock() - began
        self._total_s += self._last_s
        return result

    def stats(self) -> dict[str, float]:
        """Hits, misses, kernels and bytes kept, and the latency of the last fetch and on average."""
        served = self._hits + self._misses
        return {
            "hits": self._hits,
            "misses": self._misses,
            "kernels": len(self._kept),
            "size_bytes": self.size_bytes,
            "last_latency_ms": 1e3 * self._last_s,
            "mean_latency_ms": 1e3 * self._total_s / max(1, served),
        }

    def _keep(self, artifact_id: str, kernel: Kernel) -> None:
        size = _size_bytes(kernel)
        if size > self.capacity_bytes:
            return
        while self.size_bytes + size > self.capacity_bytes:
            self.size_bytes -= _size_bytes(self._kept.popitem(last=False)[1])
        self._kept[artifact_id] = kernel
        self.size_bytes += size


def _copy(kernel: Kernel) -> Kernel:
    tensors, metadata = kernel
    # one at a time and dense, so that each owns exactly its bytes
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, copy.deepcopy(
        metadata
    )


def _size_bytes(kernel: Kernel) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in kernel[0].values())
