"""Text summary of a growable model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.kasmina.model import MorphableModel


def summarize(model: MorphableModel) -> str:
    """Return the host's size, its sites and its seeds, as lines of text."""
    lines = [f"{type(model.host).__name__}: {model.host_params():,} parameters, now {model.total_params():,}"]
    for name, row in model.records.items():
        site = model.sites[name]
        shape = "x".join(map(str, site.out_shape)) or "not seen yet"
        lines.append(f"  {name}: {len(row)} slots, output {shape}")
        lines += [
            f"    seed {r.index}: {r.stage}, {r.blueprint} ({r.placement}), {r.params:,} parameters"
            for r in row
            if r.alive
        ]
    return "\n".join(lines)
