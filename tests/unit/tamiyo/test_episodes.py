"""The memory of a learned policy is a file, versioned, whole, and safe beside other jobs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esper.errors import ConfigError
from esper.tamiyo.episodes import FORMAT, MAX_EPISODES, Episode, EpisodeStore


def episode(number: int) -> Episode:
    return Episode(f"run {number}", "a task", float(number), ({"depth": 0.5, "blueprint mlp": 1.0},))


def test_what_is_added_is_read_again_and_stands_there_in_words(tmp_path: Path) -> None:
    memory = EpisodeStore(tmp_path / "deep" / "memory.json")
    assert memory.read() == []
    memory.add(episode(1))
    memory.add(episode(2))
    assert memory.read() == [episode(1), episode(2)]
    data = json.loads(memory.path.read_text())
    assert data["format"] == FORMAT and data["episodes"][0]["seeds"] == [{"depth": 0.5, "blueprint mlp": 1.0}]


def test_a_run_that_is_repeated_takes_the_place_of_its_episode(tmp_path: Path) -> None:
    memory = EpisodeStore(tmp_path / "memory.json")
    memory.add(episode(1))
    memory.add(Episode("run 1", "a task", 9.0, ()))
    assert [e.score for e in memory.read()] == [9.0]


def test_jobs_that_end_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: EpisodeStore(path).add(episode(number)), range(40)))
    assert sorted(e.score for e in EpisodeStore(path).read()) == [float(n) for n in range(40)]


def test_the_file_does_not_grow_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    rows = [vars_of(episode(n)) for n in range(MAX_EPISODES)]
    path.write_text(json.dumps({"format": FORMAT, "episodes": rows}))
    EpisodeStore(path).add(episode(MAX_EPISODES))
    kept = EpisodeStore(path).read()
    assert len(kept) == MAX_EPISODES and (kept[0].score, kept[-1].score) == (1.0, MAX_EPISODES)


def vars_of(e: Episode) -> dict[str, object]:
    return {"run_id": e.run_id, "task": e.task, "score": e.score, "seeds": [dict(s) for s in e.seeds]}


def with_row(score: str = "1.0", seeds: str = "[]") -> str:
    return (
        f'{{"format": 1, "episodes": [{{"run_id": "a", "task": "b", "score": {score}, "seeds": {seeds}}}]}}'
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"format": 99, "episodes": []}', '{"format": 1}', '{"format": 1, "episodes": [{}]}'),
        *(with_row(score="NaN"), with_row(score="1e308"), with_row(seeds="[[1]]"), with_row(seeds='"ab"')),
        *(with_row(seeds='[{"depth": Infinity}]'), "[" * 100_000),
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "memory.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"morphogenetic\.policy\.memory.*memory\.json"):
        EpisodeStore(path).read()


def test_a_place_where_nothing_can_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    for path in (tmp_path, tmp_path / "file" / "memory.json"):
        with pytest.raises(ConfigError, match=r"morphogenetic\.policy\.memory"):
            EpisodeStore(path).check()
    EpisodeStore(tmp_path / "not" / "yet" / "memory.json").check()
    assert not (tmp_path / "not").exists()
