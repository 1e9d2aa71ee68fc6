"""One YAML file for one configuration, in the dialect that Hydra reads (OmegaConf's)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esper.errors import ConfigError

_DOLLAR = re.compile(r"(\\*)\$\{")
_BARE = re.compile(r"(?!(?i:null|true|false|yes|no|on|off|y|n)$)[A-Za-z_][A-Za-z0-9_/.-]*")


class _Dumper(yaml.SafeDumper):
    """Writes every text in double quotes that could be read as something else, line breaks escaped."""

    def represent_str(self, data: str) -> Any:
        style = None if _BARE.fullmatch(data) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


def escape(value: Any) -> Any:
    """Plain data in which OmegaConf finds no interpolation: what looked like one reads back as it stands."""
    if isinstance(value, str):
        return _DOLLAR.sub(lambda match: match.group(1) * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape(item) for item in value]
    return value


def inline_yaml(value: Any) -> str:
    """A value on one line of YAML, as it stands behind `key:`; interpolations stay as they are.

    Example:
        >>> inline_yaml({"widths": [8, 16], "bias": None})
        '{widths: [8, 16], bias: null}'
    """
    text = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.strip()[1:-1]


def write_yaml(path: Path, data: dict[str, Any]) -> None:
    text = yaml.dump(escape(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """The file as plain data, interpolations resolved; raises `ConfigError` for all but a dictionary."""
    try:
        node = OmegaConf.create(path.read_text(encoding="utf-8"))
        data = OmegaConf.to_container(node, resolve=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration: {error}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: given a file that is not valid YAML ({reason}), expected options"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: given a YAML {type(data).__name__}, expected a dictionary of options")
    return {str(key): value for key, value in data.items()}
