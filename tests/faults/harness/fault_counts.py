"""Results of a row of the fault suite: how often its fault fired, and everything that was wrong."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Budget:
    """How often a fault should fire, and until when (`time.monotonic`); `draw` chooses the positions."""

    tries: int
    draw: random.Random
    until_s: float | None = None

    @classmethod
    def of(cls, tries: int, seed: int, until_s: float | None = None) -> Budget:
        """A budget with a generator of this seed."""
        return cls(tries, random.Random(seed), until_s)

    def lasts(self, counts: FaultCounts) -> bool:
        """Whether another try is due; a fault that almost never fires is given up."""
        hopeless = counts.tries > 10 * (counts.fired + 1)
        in_time = self.until_s is None or time.monotonic() < self.until_s
        return counts.fired < self.tries and in_time and not hopeless


@dataclass
class FaultCounts:
    """The number of `tries`, how many `fired`, and in `wrong` a message for each violated requirement."""

    row: str
    tries: int = 0
    fired: int = 0
    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def note(self, fired: bool, wrong: Sequence[str], *seen: str) -> None:
        """Add one try; what is seen or wrong without the fault is ignored."""
        self.tries += 1
        self.fired += fired
        if fired:
            self.wrong += wrong
            self.seen.update(seen)

    def demand(self, met: bool, sentence: str) -> None:
        """Add `sentence` unless a requirement for the whole row is met."""
        self.wrong += [] if met else [sentence]


@dataclass(frozen=True)
class Found:
    """The counts of a row, how many faults were requested, and for each control why it does not fail."""

    counts: FaultCounts
    requested: int
    controls: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """`pass`, `FAIL`, or `INCOMPLETE` if nothing was wrong but fewer faults fired than requested."""
        if self.counts.wrong or not self.controls or any(self.controls.values()):
            return "FAIL"
        return "pass" if self.counts.fired >= self.requested else "INCOMPLETE"

    @property
    def wrong(self) -> list[str]:
        """Everything that was wrong, including controls that do not fail."""
        return [*self.counts.wrong, *(f"not red: {why}" for why in self.controls.values() if why)]


_HEAD = ("row", "verdict", "fired", "requested", "tries", "wrong", "seconds", "controls", "seen")


def table(found: Sequence[Found]) -> str:
    """Each row with its controls as a Markdown table; then all that was wrong."""
    lines = [_HEAD, ("---",) * len(_HEAD), *(_line(row) for row in found)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    wrong = [f"- {row.counts.row}: {sentence}" for row in found for sentence in row.wrong]
    return "\n".join([text, *([""] if wrong else []), *wrong])


def _line(row: Found) -> tuple[str, ...]:
    counts = row.counts
    numbers = (counts.fired, row.requested, counts.tries, len(counts.wrong), round(counts.seconds))
    controls = [f"{name} {'NOT RED' if why else 'red'}" for name, why in row.controls.items()]
    seen = [f"{name} {count}" for name, count in sorted(counts.seen.items())]
    return (counts.row, row.verdict, *map(str, numbers), ", ".join(controls), ", ".join(seen))
