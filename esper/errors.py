"""The errors a user can meet; every one of them is an `EsperError`."""

from __future__ import annotations

from collections.abc import Sequence


class EsperError(Exception):
    """Base of all errors that Esper raises on purpose."""


class ConfigError(EsperError, ValueError):
    """One or more things in the configuration are wrong.

    Args:
        problems: a sentence for each; kept as the list `problems`.

    Example:
        >>> ConfigError(["seed: given -1", "device: given 'gpu'"]).problems[0]
        'seed: given -1'
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(EsperError, ValueError):
    """A dataset is missing, damaged or does not have the form it should have."""


class CheckpointError(EsperError, ValueError):
    """A checkpoint is missing, damaged, foreign or does not fit the model."""


class AggregationError(EsperError, ValueError):
    """Gradients or weights that cannot be combined: unlike devices, dtypes or lengths, or no sum."""


class GrowthError(EsperError, ValueError):
    """A seed, blueprint or lifecycle move that is not possible."""


class GateClosedError(GrowthError):
    """A move that is legal, but what its gate asks for does not hold."""


class RecordError(EsperError, ValueError):
    """A run's own files (metrics, events) are damaged, or do not hold what is asked of them."""


class OutputError(EsperError, OSError):
    """Results of a run that could not be written.

    Args:
        problems: a sentence for each.
        stopped_by: how the run ended; empty where it was broken off.
    """

    def __init__(self, problems: Sequence[str], stopped_by: str = "") -> None:
        self.problems = list(problems)
        self.stopped_by = stopped_by
        super().__init__("\n".join(self.problems))
