"""Downloads against a server on this machine that breaks off, forgets, lies or is gone."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from helpers.datasets import md5_of
from helpers.server import serving
from rich.console import Console

from esper.data.download import extract, fetch
from esper.errors import DataError

CONTENT = bytes(range(256)) * 4000
MD5 = md5_of(CONTENT)


def part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def test_a_whole_file_arrives_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "set.bin"
    with serving({"set.bin": CONTENT}) as server:
        fetch(f"{server.url}/set.bin", target, MD5)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["set.bin"]


def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    with serving({"set.bin": CONTENT}, cut_after=400_000) as server:
        fetch(f"{server.url}/set.bin", target, MD5, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["", "bytes=400000-", "bytes=800000-"]


def test_a_part_of_an_earlier_call_is_used(tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    part_of(target).write_bytes(CONTENT[:1000])
    with serving({"set.bin": CONTENT}) as server:
        fetch(f"{server.url}/set.bin", target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.requests == [("set.bin", "bytes=1000-")]


def test_a_part_that_is_already_whole_needs_no_request(tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    part_of(target).write_bytes(CONTENT)
    fetch("http://127.0.0.1:9/set.bin", target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_restarts_cleanly(tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    part_of(target).write_bytes(b"something old")
    with serving({"set.bin": CONTENT}, ranges=False) as server:
        fetch(f"{server.url}/set.bin", target, MD5)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * (len(CONTENT) + 5)], ids=["shorter", "longer"])
def test_a_part_of_another_file_is_fetched_again(tmp_path: Path, stale: bytes) -> None:
    target = tmp_path / "set.bin"
    part_of(target).write_bytes(stale)
    with serving({"set.bin": CONTENT}) as server:
        fetch(f"{server.url}/set.bin", target, MD5, pause_s=0)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1] == ("set.bin", "")


def test_a_wrong_hash_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    with (
        serving({"set.bin": CONTENT[:-1] + b"?"}) as server,
        pytest.raises(DataError, match=f"the MD5 {MD5}"),
    ):
        fetch(f"{server.url}/set.bin", target, MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_keeps_the_part_and_says_so(tmp_path: Path) -> None:
    target = tmp_path / "set.bin"
    with (
        serving({"set.bin": CONTENT}, cut_after=1000, ranges=False) as server,
        pytest.raises(
            DataError, match=r"closed after 1000 of 1024000 bytes; 1000 bytes are kept in .*\.part"
        ),
    ):
        fetch(f"{server.url}/set.bin", target, MD5, pause_s=0)
    assert part_of(target).read_bytes() == CONTENT[:1000]
    assert not target.exists()


def test_no_server_is_reported_in_a_sentence(tmp_path: Path) -> None:
    with serving({}) as server:
        gone = server.url
    with pytest.raises(DataError, match=f"{gone}/set.bin could not be downloaded: .*refused"):
        fetch(f"{gone}/set.bin", tmp_path / "set.bin", MD5, pause_s=0)


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3)])
def test_only_errors_that_may_pass_are_tried_again(tmp_path: Path, status: int, requests: int) -> None:
    with serving({"set.bin": CONTENT}, status=status) as server, pytest.raises(DataError, match=str(status)):
        fetch(f"{server.url}/set.bin", tmp_path / "set.bin", MD5, pause_s=0)
    assert len(server.requests) == requests


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_one_line_elsewhere(tmp_path: Path, terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100, color_system=None)
    with serving({"set.bin": CONTENT}) as server:
        fetch(f"{server.url}/set.bin", tmp_path / "set.bin", MD5, console=console)
    if terminal:
        assert "1.0/1.0 MB" in shown.getvalue()
    else:
        assert shown.getvalue() == f"downloading {server.url}/set.bin\n"


def tar_of(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


def test_only_the_members_asked_for_are_written(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tgz", {"set/a": b"1", "./set/b": b"2", "../evil": b"3", "/tmp/evil": b"4"})
    extract(archive, "set", ["a", "b"], tmp_path / "home" / "set")
    assert {path.name: path.read_bytes() for path in (tmp_path / "home" / "set").iterdir()} == {
        "a": b"1",
        "b": b"2",
    }
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "a.tgz", "b", "home", "set"]


@pytest.mark.parametrize("link", ["", "set/b"])
def test_an_archive_that_lacks_a_regular_file_leaves_nothing(tmp_path: Path, link: str) -> None:
    archive = tar_of(tmp_path / "a.tgz", {"set/a": b"1"}, link)
    with pytest.raises(DataError, match="does not hold b as regular files in set"):
        extract(archive, "set", ["a", "b"], tmp_path / "home" / "set")
    assert list((tmp_path / "home").iterdir()) == []


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tgz", {"set/a": bytes(5000)})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(archive, "set", ["a"], tmp_path / "home" / "set")
    assert list((tmp_path / "home").iterdir()) == []
