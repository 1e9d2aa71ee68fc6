"""Users register blueprints of their own, by decorator or by entry point."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from esper.errors import GrowthError
from esper.kasmina.blueprints import (
    Cost,
    SiteShape,
    blueprint_names,
    get_blueprint,
    register_blueprint,
    registry,
)

SHAPE = SiteShape("features", (6,), (4,))


@pytest.fixture(autouse=True)
def _catalogue_as_before() -> Iterator[None]:
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


def plain_linear(shape: SiteShape, *, bias: bool = False) -> nn.Module:
    """One linear layer.

    More words.
    """
    return nn.Linear(shape.channels_in, shape.channels_out, bias=bias)


def test_a_function_is_a_blueprint_with_measured_cost_and_fit() -> None:
    assert register_blueprint("plain_linear")(plain_linear) is plain_linear
    blueprint = get_blueprint("plain_linear")
    assert blueprint.summary == "One linear layer."
    assert "plain_linear" in blueprint_names()
    assert blueprint.unsupported(SHAPE) is None
    assert blueprint.cost(SHAPE) == Cost(24, 48)
    assert blueprint.cost(SHAPE, bias=True) == Cost(28, 48)
    assert blueprint.sizes(SHAPE) == [{}]
    assert "fails" in (blueprint.unsupported(SiteShape("conv2d", (3, 5, 5), (3, 5, 5))) or "")


def test_a_module_class_is_a_blueprint_and_its_sizes_are_sorted_by_cost() -> None:
    @register_blueprint("bottleneck", offers=lambda shape: [{"width": 9}, {"width": 2}])
    class Bottleneck(nn.Module):
        """Down and up again."""

        def __init__(self, shape: SiteShape, *, width: int = 3) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(shape.channels_in, width), nn.Linear(width, shape.channels_out)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(self.down(x))
            return out

    before = torch.get_rng_state()
    blueprint = get_blueprint("bottleneck")
    assert blueprint.sizes(SHAPE) == [{"width": 2}, {"width": 9}]
    assert blueprint.build(SHAPE, torch.Generator().manual_seed(0), width=2)(torch.ones(1, 6)).shape == (1, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_a_wrong_output_shape_is_found() -> None:
    @register_blueprint("crooked")
    def crooked(shape: SiteShape) -> nn.Module:
        return nn.Linear(shape.channels_in, shape.channels_out + 1)

    reason = get_blueprint("crooked").unsupported(SHAPE)
    assert reason == "its output has shape (2, 5), the layer's has (2, 4)"


def test_the_same_function_may_register_again_but_a_name_is_not_taken_over() -> None:
    register_blueprint("plain_linear")(plain_linear)
    register_blueprint("plain_linear")(plain_linear)
    with pytest.raises(GrowthError, match=r"'mlp' is already registered, by esper\.kasmina.*features\.mlp"):
        register_blueprint("mlp")(plain_linear)


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(
        GrowthError, match=r"'conv_hevy'.*Did you mean 'conv_heavy'.*attention, conv_branch, conv_heavy"
    ):
        get_blueprint("conv_hevy")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed distribution with two entry points: a blueprint, and one whose module is not there."""
    info = tmp_path / "esper_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: esper-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[esper.blueprints]\nfrom_plugin = esper_plugin_code:make\nbroken = esper_plugin_gone:make\n"
    )
    (tmp_path / "esper_plugin_code.py").write_text(
        "from torch import nn\n\n\ndef make(shape):\n"
        "    return nn.Linear(shape.channels_in, shape.channels_out)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "esper_plugin_code", raising=False)
    return "from_plugin"


def test_entry_points_are_listed_unloaded_and_loaded_when_asked_for(plugin: str) -> None:
    assert {plugin, "broken"} <= set(blueprint_names())
    assert "esper_plugin_code" not in sys.modules
    assert get_blueprint(plugin).cost(SHAPE) == Cost(28, 48)
    assert get_blueprint(plugin) is get_blueprint(plugin)


def test_a_broken_entry_point_says_which_and_hurts_no_other(plugin: str) -> None:
    with pytest.raises(
        GrowthError, match="blueprint 'broken' cannot be loaded from 'esper_plugin_gone:make'"
    ):
        get_blueprint("broken")
    assert get_blueprint("mlp").name == "mlp"
