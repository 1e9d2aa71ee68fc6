"""Buffers: kept through measurements, loaded in the shape that they were saved with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.runs import same
from helpers.zoo_layers import WIDTH, Lazy, Plain
from helpers.zoo_state import GrowingBuffer, LateBuffers, Transient
from torch import Tensor, nn

from esper.errors import GrowthError
from esper.kasmina import wrap
from esper.kasmina.model_buffers import preserve_buffers

X = torch.arange(4.0 * WIDTH).view(4, WIDTH) / WIDTH


def buffers(model: nn.Module) -> dict[str, Tensor | None]:
    return {
        f"{path}.{name}": buffer if buffer is None else buffer.clone()
        for path, module in model.named_modules()
        for name, buffer in module._buffers.items()
    }


def equal(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> bool:
    kept = {name: t for name, t in a.items() if t is not None}
    return a.keys() == b.keys() and same(kept, {name: t for name, t in b.items() if t is not None})


@pytest.mark.parametrize("make", [GrowingBuffer, LateBuffers, Transient])
def test_no_buffer_is_another_after_a_measurement(make: type[nn.Module]) -> None:
    host = make()
    before = buffers(host)
    with pytest.raises(ZeroDivisionError), preserve_buffers(host):
        host(X)
        host(X)
        raise ZeroDivisionError
    assert equal(buffers(host), before)
    assert [name for name, _ in host.named_buffers()] == [n[1:] for n, t in before.items() if t is not None]


def test_what_is_changed_in_place_or_resized_is_put_back() -> None:
    host = nn.BatchNorm1d(WIDTH)
    before, held = buffers(host), host.running_mean
    with preserve_buffers(host):
        host(X)
        host.running_var.resize_(2)
    assert equal(buffers(host), before) and host.running_mean is held


@pytest.mark.parametrize("make", [GrowingBuffer, LateBuffers])
@pytest.mark.parametrize("steps", [(2, 0), (1, 3), (0, 2), (3, 1)])
def test_a_model_gets_the_buffers_of_the_saved_one(make: type[nn.Module], steps: tuple[int, int]) -> None:
    """Whatever the model that is loaded into has been through, as in a rollback."""
    saved, other = (wrap(make(), ["body"]) for _ in range(2))
    for model, count in zip((saved, other), steps, strict=True):
        for _ in range(count):
            model.train()(X)
    state = {name: t.clone() for name, t in saved.state_dict().items()}
    other.load_state_dict(state)
    assert same(dict(other.state_dict()), state)
    assert equal(buffers(other.host), buffers(saved.host))
    assert torch.equal(other.eval()(X), saved.eval()(X))


def test_a_topology_says_nothing_of_buffers_that_stay_as_they_are() -> None:
    assert "buffers" not in wrap(nn.Sequential(Plain(), nn.BatchNorm1d(3)), ["0.body"]).topology()
    lazy = wrap(Lazy(), ["body"])
    lazy.observe(X)
    assert "buffers" not in lazy.topology()


def test_a_buffer_that_is_not_saved_is_not_missed() -> None:
    model = wrap(Transient(), ["body"])
    model(X)
    assert not any("table" in name for name in model.state_dict())
    wrap(Transient(), ["body"]).load_state_dict(model.state_dict())


@pytest.mark.parametrize("damage", [[], "x", 3])
def test_a_damaged_note_on_buffers_is_refused(damage: Any) -> None:
    model = wrap(GrowingBuffer(), ["body"])
    model.train()(X)
    topology = model.topology() | {"buffers": damage}
    model.topology = lambda: topology  # type: ignore[method-assign]
    with pytest.raises(GrowthError, match="its buffers are a"):
        wrap(GrowingBuffer(), ["body"]).load_state_dict(model.state_dict())


def test_another_models_parameters_are_still_refused() -> None:
    saved = wrap(Plain(), ["body"]).state_dict() | {"host.head.weight": torch.zeros(5, WIDTH)}
    with pytest.raises(RuntimeError, match=r"size mismatch for host\.head\.weight"):
        wrap(Plain(), ["body"]).load_state_dict(saved)
