"""A host's weights from a safetensors file, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from esper.config.messages import error_message, nearest_name
from esper.errors import ConfigError

_KEY = "model.pretrained"
_SHOWN = 5  # tensors that are named where many do not fit


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill every parameter and buffer of a model; raises `ConfigError` where names or shapes differ."""
    found = weight_problems(model, path)
    if found:
        raise ConfigError(found)
    model.load_state_dict(load_file(path))


def weight_problems(model: nn.Module, path: Path) -> list[str]:
    """What keeps a file from being loaded into a model; only its header is read."""
    try:
        with safe_open(path, framework="pt") as file:
            found = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in found}
    except (OSError, SafetensorError) as error:
        return [error_message(_KEY, str(path), f"a safetensors file ({error})")]
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - shapes.keys())]
    wrong += [
        f"{name} has no place (nearest: {nearest_name(name, wanted)})"
        for name in sorted(shapes.keys() - wanted.keys())
    ]
    both = sorted(shapes.keys() & wanted.keys())
    wrong += [f"{n} has shape {shapes[n]}, the model {wanted[n]}" for n in both if shapes[n] != wanted[n]]
    if not wrong:
        return []
    more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    expected = f"the weights of this model: {', '.join(wrong[:_SHOWN])}{more}"
    return [error_message(_KEY, str(path), expected)]
