"""Downloads: resumed after an interruption, verified by hash, moved into place only when complete."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from esper.errors import DataError

CHUNK_BYTES = 1 << 18
FINAL_STATUS = range(400, 500)  # client errors: a retry will not help
RANGE_PAST_END = 416


class _Interrupted(Exception):
    """A transfer was interrupted; a retry may help."""


def has_md5(path: Path, md5: str) -> bool:
    """Whether the file's MD5 is `md5` (lower-case hexadecimal)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def fetch(
    url: str,
    target: Path,
    md5: str,
    *,
    attempts: int = 3,
    pause_s: float = 0.5,
    timeout_s: float = 30.0,
    console: Console | None = None,
) -> None:
    """Download `url` to `target`, which appears only when its MD5 is `md5`.

    What arrives is kept in `<target>.part`; an interrupted transfer resumes there, in this call (up to
    `attempts` times in a row without a new byte) or in a later one. A resumed file with a wrong hash is
    fetched once more from its beginning. Raises `DataError`; the part is kept unless its hash is wrong.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = part.exists()
    if not (resumed and has_md5(part, md5)):
        with _bar(target.name, url, console or Console(stderr=True)) as progress:
            _complete(url, part, attempts, pause_s, timeout_s, progress)
            if resumed and not has_md5(part, md5):
                part.unlink()
                _complete(url, part, attempts, pause_s, timeout_s, progress)
    if not has_md5(part, md5):
        part.unlink()
        raise DataError(f"{url} does not have the MD5 {md5}; what the server sent was thrown away")
    part.replace(target)


def _bar(name: str, url: str, console: Console) -> Progress:
    if not console.is_terminal:
        console.print(f"downloading {url}", soft_wrap=True, highlight=False)
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    progress.add_task(name, total=None)
    return progress


def _complete(
    url: str, part: Path, attempts: int, pause_s: float, timeout_s: float, progress: Progress
) -> None:
    """Retry until the file is complete, or `attempts` requests in a row brought no new bytes."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, timeout_s, progress)
            return
        except HTTPError as error:
            raise DataError(f"{url} answered {error.code} {error.reason}") from error
        except _Interrupted as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= attempts:
                kept = f"; {_size(part)} bytes are kept in {part} for the next try" if _size(part) else ""
                raise DataError(f"{url} could not be downloaded: {error}{kept}") from error
        time.sleep(pause_s)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(url: str, part: Path, timeout_s: float, progress: Progress) -> None:
    """One request for the rest of the file."""
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(request, timeout=timeout_s) as response:
            _store(response, part, have, progress)
    except HTTPError as error:
        error.close()
        if error.code == RANGE_PAST_END and have:
            part.unlink()
            raise _Interrupted("the server's file is shorter than the part that was kept") from error
        if error.code in FINAL_STATUS:
            raise
        raise _Interrupted(f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(str(getattr(error, "reason", error))) from error


def _store(response: http.client.HTTPResponse, part: Path, have: int, progress: Progress) -> None:
    begin = _range_start(response) if response.status == http.client.PARTIAL_CONTENT else 0
    if begin not in (0, have):
        raise _Interrupted(f"asked for bytes from {have}, the server sent bytes from {begin}")
    length = response.headers.get("Content-Length")
    total = begin + int(length) if length is not None else None
    with part.open("ab" if begin else "wb") as stream:
        progress.update(progress.task_ids[0], total=total, completed=begin)
        while chunk := response.read(CHUNK_BYTES):
            stream.write(chunk)
            progress.advance(progress.task_ids[0], len(chunk))
    if total is not None and _size(part) < total:
        raise _Interrupted(f"the connection closed after {_size(part)} of {total} bytes")


def _range_start(response: http.client.HTTPResponse) -> int:
    """Return the first byte's position of a response with `Content-Range: bytes 100-199/200`."""
    digits = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(digits) if digits.isdigit() else -1


def extract(archive: Path, inner: str, names: Sequence[str], target: Path) -> None:
    """Extract the files `inner/<name>` of a tar archive to the folder `target`.

    Only requested names are written, under paths made here; `target` appears complete by one rename.

    Args:
        archive: the tar file.
        inner: folder inside the archive.
        names: files to extract.
        target: the new folder.

    Raises:
        DataError: the archive is damaged or lacks a file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = {f"{inner}/{name}": name for name in names}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        try:
            with tarfile.open(archive) as tar:
                taken = {_extract_member(tar, item, whole, wanted) for item in tar}
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive} cannot be unpacked: {error}; delete it") from error
        lacking = sorted(set(names) - taken)
        if lacking:
            raise DataError(f"{archive} does not hold {', '.join(lacking)} as regular files in {inner}")
        whole.replace(target)


def _extract_member(
    tar: tarfile.TarFile, item: tarfile.TarInfo, folder: Path, wanted: Mapping[str, str]
) -> str:
    name = wanted.get(item.name.removeprefix("./"), "")
    stream = tar.extractfile(item) if name and item.isreg() else None
    if stream is None:
        return ""
    with stream, (folder / name).open("wb") as out:
        shutil.copyfileobj(stream, out)
    return name
