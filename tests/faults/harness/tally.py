"""What a row of the battery found: how often its fault fired, and everything that was wrong."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
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

    @property
    def green(self) -> bool:
        return self.fired > 0 and not self.wrong

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


_HEAD = ("row", "verdict", "fired", "of", "wrong", "seconds", "negative control", "seen")


def table(found: Sequence[tuple[Tally, bool]]) -> str:
    """Each row, and whether its negative control was caught, as a Markdown table; then all that was wrong."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_line(tally, caught) for tally, caught in found)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    wrong = [f"- {tally.row}: {sentence}" for tally, _ in found for sentence in tally.wrong]
    return "\n".join([text, *([""] if wrong else []), *wrong])


def _line(tally: Tally, caught: bool) -> tuple[str, ...]:
    counts = [str(n) for n in (tally.fired, tally.tries, len(tally.wrong), round(tally.seconds))]
    seen = ", ".join(f"{name} {count}" for name, count in sorted(tally.seen.items()))
    verdict = "pass" if tally.green and caught else "FAIL"
    return (tally.row, verdict, *counts, "red" if caught else "NOT RED", seen)
