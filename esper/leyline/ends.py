"""How a run ends."""

from __future__ import annotations

# What `stopped_by` holds for a run that came to its own end; any other was cut short and can go on.
FINISHED_BY = frozenset({"max_epochs", "early_stopping"})
