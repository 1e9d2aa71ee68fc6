"""Named tensors in safetensors files, with support for any strides and for shared tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from esper.errors import CheckpointError
from esper.utils.files import FILES, Files, write_atomic
from esper.utils.open_files import OpenFile, opened_file

# enough for about 60,000 tensors; a header is parsed in memory before its content can be verified
HEADER_LIMIT_BYTES = 8 << 20

_SUFFIX = ".safetensors"
# one key only: the library writes several keys in random order, and equal content must give equal bytes
_NOTE = "esper"
# the last is raised by torch for a file that it cannot map into memory
_UNREADABLE = (SafetensorError, OSError, RuntimeError)
_DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool, torch.complex64,
    }
)  # fmt: skip


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors and metadata to a `.safetensors` file.

    A tensor with two names is written once.

    Args:
        path: the file.
        tensors: by name, of any shape, strides and device; values are saved bit for bit, strides are not.
        metadata: JSON values.

    Raises:
        CheckpointError: the format does not support a tensor.
        OSError: the file cannot be written.
    """
    plain, note = _plain(tensors, metadata)
    try:
        safetensors.torch.save_file(plain, path, metadata=note)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    if _header_size(path) > HEADER_LIMIT_BYTES:
        raise CheckpointError(f"{path}: {len(plain)} names are more than one file can hold")


def write_tensors_atomic(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, io: Files = FILES
) -> None:
    """Replace a `.safetensors` file atomically and durably; after an error it is unchanged.

    For any reader: a tensor with two names is written twice, and `metadata` is in the header unchanged.
    Missing parent folders are created.

    Raises:
        CheckpointError: the format does not support a tensor.
        OSError: the file cannot be written.
    """
    storages: set[tuple[torch.device, int]] = set()
    for name, tensor in tensors.items():
        check_storable(name, tensor)
    plain = {name: _own(tensor.detach().cpu(), storages) for name, tensor in tensors.items()}

    def write(temp: Path) -> None:
        try:
            safetensors.torch.save_file(plain, temp, metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error

    write_atomic(path, write, io=io)


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> bytes:
    """What `save_tensors` would write; equal tensors and metadata give equal bytes."""
    plain, note = _plain(tensors, metadata)
    return safetensors.torch.save(plain, metadata=note)


def load_tensors(
    path: Path | OpenFile, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the tensors, copied to `device`, and the metadata of a `.safetensors` file.

    Names that shared a tensor share it again. If the file is replaced meanwhile, the old content is read.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    with _checked(path) as source:
        try:
            with safe_open(source.readable_path, framework="pt") as file:
                note = (file.metadata() or {}).get(_NOTE)
                # a copy: otherwise the tensors would change with the mapped file
                tensors = {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
        except _UNREADABLE as error:
            raise CheckpointError(f"{source.path} is damaged or not a safetensors file: {error}") from error
    metadata, aliases = _parse_note(source.path, note)
    for alias, name in aliases.items():
        if alias in tensors or name not in tensors:
            raise CheckpointError(f"{source.path}: {alias!r} cannot be another name of {name!r}")
        tensors[alias] = tensors[name]
    return tensors, metadata


def check_tensors(path: Path | OpenFile) -> None:
    """Raise `CheckpointError` unless the header is valid, of bounded size, and covers the file exactly.

    No tensor is read.
    """
    with _checked(path) as source:
        try:
            with safe_open(source.readable_path, framework="pt"):
                pass
        except _UNREADABLE as error:
            raise CheckpointError(f"{source.path} is damaged or not a safetensors file: {error}") from error


@contextmanager
def _checked(path: Path | OpenFile) -> Iterator[OpenFile]:
    """The open file, after a check of its suffix and the size of its header."""
    name = path.path if isinstance(path, OpenFile) else path
    if name.suffix != _SUFFIX:
        raise CheckpointError(f"{name} is not a {_SUFFIX} file; weights in other formats are never read")
    with opened_file(path) as source:
        source.file.seek(0)
        size = int.from_bytes(source.file.read(8), "little")
        if size > HEADER_LIMIT_BYTES:
            raise CheckpointError(
                f"{name} is damaged or not a safetensors file: it announces a header of {size} bytes, "
                f"at most {HEADER_LIMIT_BYTES} are accepted"
            )
        yield source


def _header_size(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _plain(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors as the library needs them (dense, contiguous, no shared storage), and the header's metadata."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    storages: set[tuple[torch.device, int]] = set()
    for name, tensor in sorted(tensors.items()):
        check_storable(name, tensor)
        identity: tuple[Any, ...] = (
            tensor.device,
            tensor.data_ptr(),
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        identity += (tensor.is_conj(), tensor.is_neg())
        if tensor.numel() and identity in seen:
            aliases[name] = seen[identity]
            continue
        seen[identity] = name
        kept[name] = _own(tensor, storages)
    note = {key: value for key, value in (("aliases", aliases), ("metadata", metadata)) if value}
    return kept, {_NOTE: json.dumps(note, sort_keys=True)} if note else None


def _own(tensor: Tensor, storages: set[tuple[torch.device, int]]) -> Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    storage = plain.untyped_storage()
    readable_path = (plain.device, storage.data_ptr())
    if readable_path in storages or storage.nbytes() != plain.nbytes:
        return plain.clone()
    storages.add(readable_path)
    return plain


def check_storable(name: str, tensor: Tensor) -> None:
    """Raise `CheckpointError` for a tensor that the safetensors format does not support."""
    if name == "__metadata__":
        raise CheckpointError("a tensor cannot be saved under the name '__metadata__': the format needs it")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(
            f"{name!r} cannot be saved: it is sparse, quantised or without data; expected a dense tensor"
        )
    if tensor.dtype not in _DTYPES:
        known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in _DTYPES))
        raise CheckpointError(
            f"{name!r} cannot be saved: its dtype is {tensor.dtype}; expected one of {known}"
        )


def _parse_note(path: Path, note: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        found = json.loads(note or "{}")
        metadata, aliases = dict(found.get("metadata", {})), dict(found.get("aliases", {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata is not what Esper writes: {error}") from error
    return metadata, aliases
