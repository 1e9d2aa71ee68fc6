"""What `--help` prints; Hydra's own takes a second, because it searches its folders anew for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

_TEXT = """\
Train a PyTorch network and grow it while it trains.

  esper-train [group=option] [key=value] [--multirun key=value,value]

Groups (group=option)

{groups}

Options (key=value), as they stand with what was chosen

{options}
--cfg job shows the options alone, --hydra-help Hydra's own flags.
--config-dir D --config-name F runs a configuration saved as D/F.yaml.
validate_only=true checks everything and stops; dry_run=true also runs one batch.

Exit codes: 0 done, 1 internal error, 2 configuration or input, 3 halted by an emergency,
4 results incomplete (one could not be saved), 129, 130 and 143 ended by SIGHUP, SIGINT, SIGTERM.
"""


def help_text(groups: Mapping[str, Sequence[str]], composed: DictConfig) -> str:
    """The groups with their options, and every option with the value it would have."""
    own = {name: options for name, options in sorted(groups.items()) if name.partition("/")[0] != "hydra"}
    rows = [f"  {name}: {', '.join(options)}" for name, options in own.items()]
    shown = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    lines = [f"  {line}" for line in OmegaConf.to_yaml(shown).splitlines()]
    return _TEXT.format(groups="\n".join(rows), options="\n".join(lines) + "\n")
