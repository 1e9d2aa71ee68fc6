"""What a row of the battery found: how often its fault fired, and everything that was wrong."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Budget:
    """How often a fault is to fire, and until when (`time.monotonic`); `draw` says where."""

    tries: int
    draw: random.Random
    until_s: float | None = None

    @classmethod
    def of(cls, tries: int, seed: int, until_s: float | None = None) -> Budget:
        """A budget whose draws begin at `seed`."""
        return cls(tries, random.Random(seed), until_s)

    def lasts(self, tally: Tally) -> bool:
        """Whether there is to be another try; a fault that hardly ever fires is not waited for."""
        hopeless = tally.tries > 10 * (tally.fired + 1)
        in_time = self.until_s is None or time.monotonic() < self.until_s
        return tally.fired < self.tries and in_time and not hopeless


@dataclass
class Tally:
    """`tries` faults were meant, `fired` really happened; `wrong` has a sentence for each broken promise."""

    row: str
    tries: int = 0
    fired: int = 0
    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def note(self, fired: bool, wrong: Sequence[str], *seen: str) -> None:
        """Add one try; what is seen or wrong without the fault is of no account."""
        self.tries += 1
        self.fired += fired
        if fired:
            self.wrong += wrong
            self.seen.update(seen)

    def demand(self, met: bool, sentence: str) -> None:
        """Something that must hold for the row as a whole."""
        self.wrong += [] if met else [sentence]


@dataclass(frozen=True)
class Found:
    """What a row found, how many faults it was asked for, and of each control why it is not red."""

    tally: Tally
    asked: int
    controls: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """`pass`, `FAIL`, or `INCOMPLETE` where nothing was wrong but fewer faults fired than asked."""
        if self.tally.wrong or not self.controls or any(self.controls.values()):
            return "FAIL"
        return "pass" if self.tally.fired >= self.asked else "INCOMPLETE"

    @property
    def wrong(self) -> list[str]:
        """All that was wrong, the controls that are not red included."""
        return [*self.tally.wrong, *(f"not red: {why}" for why in self.controls.values() if why)]


_HEAD = ("row", "verdict", "fired", "asked", "tries", "wrong", "seconds", "controls", "seen")


def table(found: Sequence[Found]) -> str:
    """Each row with its controls as a Markdown table; then all that was wrong."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_line(row) for row in found)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    wrong = [f"- {row.tally.row}: {sentence}" for row in found for sentence in row.wrong]
    return "\n".join([text, *([""] if wrong else []), *wrong])


def _line(row: Found) -> tuple[str, ...]:
    tally = row.tally
    counts = (tally.fired, row.asked, tally.tries, len(tally.wrong), round(tally.seconds))
    controls = [f"{name} {'NOT RED' if why else 'red'}" for name, why in row.controls.items()]
    seen = [f"{name} {count}" for name, count in sorted(tally.seen.items())]
    return (tally.row, row.verdict, *map(str, counts), ", ".join(controls), ", ".join(seen))
