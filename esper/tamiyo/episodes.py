"""Episodes of earlier runs in a JSON file, from which a policy learns."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esper.errors import ConfigError
from esper.utils.files import write_json_atomic

FORMAT = 1
# Older episodes come from other versions and blueprints; a file of this many is read in milliseconds.
MAX_EPISODES = 1000
# Scores are logarithms of losses, features shares, counts and logarithms.
_LARGEST = 1e6


@dataclass(frozen=True, slots=True)
class Episode:
    """One run: the features of its seeds, and its score.

    Args:
        run_id: identifies the run; an episode replaces an older one of the same id.
        task: runs of the same task are comparable.
        score: larger for better runs of a task.
        seeds: the features of each seed.
    """

    run_id: str
    task: str
    score: float
    seeds: tuple[Mapping[str, float], ...]


class EpisodeStore:
    """Episodes in a JSON file. Parallel jobs may share it: each adds under a lock, in one atomic step.

    Args:
        path: the file; made by the first `add`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Episode]:
        """Return all episodes, oldest first; none where there is no file.

        Raises:
            ConfigError: the file is not an episode file.
        """
        if not self.path.exists():
            return []
        try:
            data = json.loads(self.path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r} is not {FORMAT}")
            return [_episode(entry) for entry in data["episodes"]]
        # also for JSON that is no episode file: a list instead of a mapping, or endless nesting
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise ConfigError(
                f"morphogenetic.policy.memory: {self.path} is no memory of a learned policy ({problem}); "
                "expected a file that one wrote, or a path where there is none yet"
            ) from error

    def check(self) -> None:
        """Raise `ConfigError` if an episode could not be added."""
        self.read()
        # every write puts a new file beside the old one, and renames it
        folder = next(p for p in self.path.resolve().parents if p.exists())
        if self.path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"morphogenetic.policy.memory: {self.path} cannot be written; expected a file, or a path "
                "where one can be made"
            )

    def add(self, episode: Episode) -> None:
        """Add an episode to the file.

        Args:
            episode: the episode.

        Raises:
            OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            kept = [old for old in self.read() if old.run_id != episode.run_id]
            self._write([*kept, episode][-MAX_EPISODES:])

    def _write(self, episodes: Sequence[Episode]) -> None:
        rows = [asdict(episode) for episode in episodes]
        write_json_atomic(self.path, {"format": FORMAT, "episodes": rows})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # beside the file, which every write replaces by another
        lock = self.path.with_name(f"{self.path.name}.lock")
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _episode(entry: Mapping[str, Any]) -> Episode:
    seeds = tuple({str(k): _bounded_number(v) for k, v in seed.items()} for seed in entry["seeds"])
    return Episode(str(entry["run_id"]), str(entry["task"]), _bounded_number(entry["score"]), seeds)


def _bounded_number(value: Any) -> float:
    if not abs(number := float(value)) <= _LARGEST:  # nan is not, either
        raise ValueError(f"{number} is no score and no feature: these lie within {_LARGEST:g}")
    return number
