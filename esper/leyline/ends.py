"""The stop reasons of a finished run."""

from __future__ import annotations

# Values of `stopped_by` for a run that finished; with any other value the run was interrupted and can resume.
FINISHED_BY = frozenset({"max_epochs", "early_stopping"})
