from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from helpers.datasets import md5_of, pack, write_cifar10, write_cifar100, write_idx
from helpers.server import serving

from esper.data.catalogue import FILE_SETS, FileSet
from esper.data.files import check_in_place, fetch_dataset, locate, missing
from esper.errors import DataError

FASHION = FILE_SETS["fashion_mnist"]
CIFAR = FILE_SETS["cifar10"]


def without_system(files: FileSet) -> FileSet:
    """The set as on a machine where no system folder holds it."""
    return replace(files, folders=tuple(folder for folder in files.folders if not folder.startswith("/")))


@pytest.mark.parametrize("inside", ["cifar10/cifar-10-batches-bin", "cifar10", "cifar-10-batches-bin", "."])
def test_cifar_is_found_wherever_it_is_kept(tmp_path: Path, inside: str) -> None:
    written = write_cifar10(tmp_path / "elsewhere")
    (tmp_path / "root" / inside).mkdir(parents=True, exist_ok=True)
    for path in written.iterdir():
        path.rename(tmp_path / "root" / inside / path.name)
    assert locate(CIFAR, tmp_path / "root") == tmp_path / "root" / inside
    check_in_place(CIFAR, tmp_path / "root", download=False)


@pytest.mark.parametrize("inside", ["fashion_mnist", "FashionMNIST/raw", "."])
@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files_are_found_wherever_they_are_kept(tmp_path: Path, inside: str, compressed: bool) -> None:
    write_idx(tmp_path / inside, compressed=compressed)
    assert locate(without_system(FASHION), tmp_path) == tmp_path / inside
    check_in_place(without_system(FASHION), tmp_path, download=False)


def test_a_set_that_is_nowhere_says_where_it_was_looked_for_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch_dataset(without_system(FASHION), tmp_path, download=False)
    message = str(caught.value)
    assert f"fashion_mnist was not found in {tmp_path / 'fashion_mnist'}" in message
    assert "dataset.download is false" in message and "set dataset.download=true" in message
    assert "train-images-idx3-ubyte.gz" in message and "dataset-fashion-mnist" in message


def test_a_missing_batch_file_is_named(tmp_path: Path) -> None:
    """Also where downloads are allowed, since the files beside it are the user's."""
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_3.bin").unlink()
    for look in (check_in_place, lambda *where, download: fetch_dataset(*where, download=download)):
        with pytest.raises(DataError, match=rf"cifar10 in {folder} lacks data_batch_3\.bin"):
            look(CIFAR, tmp_path, download=True)


@pytest.mark.parametrize("download", [True, False])
def test_what_is_in_place_is_checked_by_its_header(tmp_path: Path, download: bool) -> None:
    folder = write_cifar10(tmp_path)
    (folder / "test_batch.bin").write_bytes(bytes(3000))
    with pytest.raises(DataError, match=r"test_batch\.bin is 3000 bytes long"):
        check_in_place(CIFAR, tmp_path, download)


def local_cifar(tmp_path: Path, name: str = "cifar10") -> tuple[FileSet, bytes]:
    """A tiny set in an archive of its own, and the catalogue entry that knows its hash."""
    folder = write_cifar10(tmp_path / "made") if name == "cifar10" else write_cifar100(tmp_path / "made")
    md5 = pack(folder, tmp_path / "made.tgz")
    files = FILE_SETS[name]
    return replace(files, downloads=MappingProxyType({files.archive: md5})), (
        tmp_path / "made.tgz"
    ).read_bytes()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_is_fetched_verified_unpacked_and_removed(tmp_path: Path, name: str) -> None:
    files, content = local_cifar(tmp_path, name)
    with serving({files.archive: content}) as server:
        folder = fetch_dataset(files, tmp_path / "root", download=True, mirror=server.url)
        assert fetch_dataset(files, tmp_path / "root", download=True, mirror=server.url) == folder
    assert folder == tmp_path / "root" / files.folders[0]
    assert len(server.requests) == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(files.files)
    assert [path.name for path in (tmp_path / "root" / name).iterdir()] == [files.archive_folder]


def test_an_archive_that_the_user_put_there_is_used_and_kept(tmp_path: Path) -> None:
    files, content = local_cifar(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    (root / files.archive).write_bytes(content)
    check_in_place(files, root, download=False)
    assert locate(files, root) is None, "the check unpacks nothing"
    assert locate(files, root) != fetch_dataset(files, root, download=False)
    assert (root / files.archive).exists()


def test_an_archive_with_another_hash_is_refused_by_name(tmp_path: Path) -> None:
    files, content = local_cifar(tmp_path)
    archive = tmp_path / files.archive
    archive.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{archive} does not have the official MD5"):
        check_in_place(files, tmp_path, download=False)


def local_fashion(tmp_path: Path) -> tuple[FileSet, dict[str, bytes]]:
    contents = {path.name: path.read_bytes() for path in write_idx(tmp_path / "made").iterdir()}
    hashes = MappingProxyType({name: md5_of(content) for name, content in contents.items()})
    return replace(without_system(FASHION), downloads=hashes), contents


def test_single_files_that_are_missing_are_fetched(tmp_path: Path) -> None:
    """A download that stopped after two of four files goes on with the third."""
    files, contents = local_fashion(tmp_path)
    home = tmp_path / "fashion_mnist"
    home.mkdir()
    for name in list(contents)[:2]:
        (home / name).write_bytes(contents[name])
    with serving(contents) as server:
        assert fetch_dataset(files, tmp_path, download=True, mirror=server.url) == home
    assert sorted(name for name, _ in server.requests) == sorted(list(contents)[2:])


def test_without_a_network_the_error_says_what_else_can_be_done(tmp_path: Path) -> None:
    files, _ = local_fashion(tmp_path)
    with serving({}) as server:
        pass
    with pytest.raises(
        DataError, match=r"was not found in .* could not be downloaded: .*dataset-fashion-mnist"
    ):
        fetch_dataset(files, tmp_path, download=True, mirror=server.url)


def test_processes_that_want_the_same_set_wait_for_the_first(tmp_path: Path) -> None:
    files, content = local_cifar(tmp_path)
    found: list[Path] = []
    with serving({files.archive: content}) as server:
        threads = [
            threading.Thread(
                target=lambda: found.append(
                    fetch_dataset(files, tmp_path / "root", download=True, mirror=server.url)
                )
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 4 and len(server.requests) == 1


@contextmanager
def coming_and_going(away: Path, home: Path) -> Iterator[None]:
    """Another process, or so it seems, that puts a folder in place and takes it away again, all the time."""
    over = threading.Event()

    def move() -> None:
        while not over.is_set():
            away.rename(home)
            time.sleep(0)  # so that a busy machine shows both
            home.rename(away)
            time.sleep(0)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
    finally:
        over.set()
        mover.join()


def looks(ask: Callable[[], object], enough: int) -> set[object]:
    """Different answers to a question that is asked two thousand times, and on until there are enough."""
    found, ends = set[object](), time.monotonic() + 30
    asked = 0
    while asked < 2000 or (len(found) < enough and time.monotonic() < ends):
        found.add(ask())
        asked += 1
    return found


def test_a_folder_renamed_into_place_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    """A part of a set is never reported while another process puts it there."""
    files, _ = local_cifar(tmp_path)
    away, home = tmp_path / "away", tmp_path / "home"
    away.mkdir()
    for name in files.files:
        (away / name).touch()
    with coming_and_going(away, home):
        seen = looks(lambda: len(missing(files, home)), 2)
    assert seen == {0, len(files.files)}


def test_a_set_that_comes_while_it_is_looked_for_is_never_called_a_part(tmp_path: Path) -> None:
    """Found, or not there; what another process has just put there lacks nothing."""
    files, _ = local_cifar(tmp_path)
    away, home = tmp_path / "away", tmp_path / "root" / files.folders[0]
    away.mkdir()
    home.parent.mkdir(parents=True)
    for name in files.files:
        (away / name).touch()

    def logged() -> str:
        try:
            fetch_dataset(files, tmp_path / "root", download=False)
        except DataError as error:
            return "lacks" if "lacks" in str(error) else "not found"
        return "found"

    with coming_and_going(away, home):
        assert looks(logged, 2) == {"found", "not found"}


def test_a_data_root_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    files, _ = local_cifar(tmp_path)
    (tmp_path / "root").write_text("a file, not a folder")
    with pytest.raises(DataError, match="cifar10 cannot be stored in"):
        fetch_dataset(files, tmp_path / "root", download=True, mirror="http://127.0.0.1:9")
