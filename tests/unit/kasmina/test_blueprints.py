"""What every blueprint promises, over many shapes: fit, exact cost, silence at birth, own randomness."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from esper.errors import GrowthError
from esper.kasmina.blending import join
from esper.kasmina.blueprints import Cost, SiteShape, blueprint_names, get_blueprint, measured_cost

NAMES = [
    "attention",
    "conv_heavy",
    "conv_light",
    "depthwise",
    "low_rank",
    "mlp",
    "no_op",
    "noise",
    "norm",
    "squeeze_excite",
]
LEARNING = [name for name in NAMES if name not in ("no_op", "noise")]
SERIES_CONV = SiteShape("conv2d", (16, 7, 7), (16, 7, 7))
SERIES_FEATURES = SiteShape("features", (5, 16), (5, 16))
FITTING = [
    (name, shape)
    for name in LEARNING
    for shape in (SERIES_CONV, SERIES_FEATURES)
    if get_blueprint(name).unsupported(shape) is None
]


def series(layout: str, shape: tuple[int, ...]) -> SiteShape:
    return SiteShape(layout, shape, shape)


@st.composite
def shapes(draw: st.DrawFn) -> SiteShape:
    layout = draw(st.sampled_from(["features", "conv1d", "conv2d"]))
    space = tuple(draw(st.lists(st.integers(1, 6), min_size=0, max_size=2)))
    if layout != "features":
        space = tuple(draw(st.integers(1, 6)) for _ in range(1 if layout == "conv1d" else 2))
    source, target = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if draw(st.booleans()):
        target = source
    if layout == "features":
        return SiteShape(layout, (*space, source), (*space, target))
    stride = draw(st.integers(1, 3))
    return SiteShape(layout, (source, *space), (target, *(-(-size // stride) for size in space)))


@st.composite
def offers(draw: st.DrawFn, names: list[str]) -> tuple[str, SiteShape, dict[str, object]]:
    name, shape = draw(st.sampled_from(names)), draw(shapes())
    sizes = get_blueprint(name).sizes(shape)
    if not sizes:
        shape = SERIES_FEATURES if name in ("mlp", "attention") else SERIES_CONV
        sizes = get_blueprint(name).sizes(shape)
    return name, shape, draw(st.sampled_from(sizes))


def test_the_catalogue_is_complete() -> None:
    assert set(NAMES) <= set(blueprint_names())
    assert all(get_blueprint(name).summary for name in NAMES)


@given(offers(NAMES))
@settings(max_examples=150)
def test_the_declared_cost_is_that_of_the_module_built(
    offer: tuple[str, SiteShape, dict[str, object]],
) -> None:
    """Parameters by count, FLOPs as torch's own counter sees them."""
    name, shape, options = offer
    blueprint = get_blueprint(name)
    assert blueprint.cost(shape, **options) == measured_cost(blueprint.build(shape, None, **options), shape)


@given(offers(LEARNING))
@settings(max_examples=100)
def test_a_seed_is_silent_at_birth_and_has_the_right_shape(
    offer: tuple[str, SiteShape, dict[str, object]],
) -> None:
    """Zeros in training and in eval mode, of the layer's output shape, for batches of two sizes."""
    name, shape, options = offer
    module = get_blueprint(name).build(shape, None, **options)
    for batch in (2, 3):
        for training in (True, False):
            out = module.train(training)(torch.randn(batch, *shape.in_shape))
            assert out.shape == (batch, *shape.out_shape)
            assert torch.equal(out, torch.zeros_like(out))


@given(shapes())
@settings(max_examples=60)
def test_sizes_are_distinct_and_ascend_by_cost(shape: SiteShape) -> None:
    for name in NAMES:
        blueprint = get_blueprint(name)
        sizes = blueprint.sizes(shape)
        costs = [blueprint.cost(shape, **options).params for options in sizes]
        assert costs == sorted(costs)
        assert len({tuple(sorted(options.items())) for options in sizes}) == len(sizes)
        assert bool(sizes) == (blueprint.unsupported(shape) is None)


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_every_parameter_wakes_up(name: str, shape: SiteShape) -> None:
    """Only outgoing weights are zero: after one step on them, all parameters receive a gradient."""
    blueprint = get_blueprint(name)
    torch.manual_seed(0)
    module = blueprint.build(shape, torch.Generator().manual_seed(1))
    x, target = torch.randn(16, *shape.in_shape), torch.randn(16, *shape.out_shape)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (module(x) - target).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_building_draws_from_the_given_generator_only(name: str) -> None:
    """The global generator is left as it was; equal generators give equal weights."""
    shape = SERIES_FEATURES if name in ("mlp", "attention") else SERIES_CONV
    blueprint = get_blueprint(name)
    before = torch.get_rng_state()
    first, again = (blueprint.build(shape, torch.Generator().manual_seed(5)) for _ in range(2))
    other = blueprint.build(shape, torch.Generator().manual_seed(6))
    blueprint.cost(shape)
    blueprint.unsupported(shape)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    if name not in ("no_op", "norm"):
        assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("name", "shape"), FITTING)
def test_a_seed_runs_and_joins_under_autocast(name: str, shape: SiteShape) -> None:
    """In bf16, too, the host's output keeps its dtype and at birth every value."""
    module = get_blueprint(name).build(shape)
    h = torch.randn(4, *shape.in_shape, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = join("additive", h, module(h), torch.ones(()))
    assert out.dtype == torch.bfloat16 and torch.equal(out, h)


def test_a_generator_gives_each_seed_weights_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (get_blueprint("conv_heavy").build(SERIES_CONV, generator) for _ in range(2))
    assert not torch.equal(first[0].weight, second[0].weight)


@pytest.mark.parametrize("act", ["gelu", "relu", "silu", "tanh"])
def test_a_parallel_mlp_without_norm_is_a_wider_hidden_layer(act: str) -> None:
    """Linear-activation-Linear with a seed of width 5 in parallel equals the same with 5 more units."""
    activation = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}[act]()
    host = nn.Sequential(nn.Linear(7, 6), activation, nn.Linear(6, 3)).double()
    shape = SiteShape("features", (7,), (3,))
    seed = get_blueprint("mlp").build(shape, None, hidden=5, norm=False, activation=act).double()
    nn.init.normal_(seed[-1].weight)
    nn.init.normal_(seed[-1].bias)
    wide = nn.Sequential(nn.Linear(7, 11), activation, nn.Linear(11, 3)).double()
    with torch.no_grad():
        wide[0].weight.copy_(torch.cat([host[0].weight, seed[0].weight]))
        wide[0].bias.copy_(torch.cat([host[0].bias, seed[0].bias]))
        wide[2].weight.copy_(torch.cat([host[2].weight, seed[-1].weight], dim=1))
        wide[2].bias.copy_(host[2].bias + seed[-1].bias)
    x = torch.randn(9, 7, dtype=torch.float64)
    torch.testing.assert_close(host(x) + seed(x), wide(x))


def test_the_measured_graft_of_sixteen_and_twenty_channels_costs_what_it_did() -> None:
    """growth.md: residual 3x3 seeds of 16 and 20 channels took a host of 6,274 parameters to 22,474."""
    heavy = get_blueprint("conv_heavy")
    second = heavy.cost(SiteShape("conv2d", (16, 7, 7), (16, 7, 7)), hidden=16)
    third = heavy.cost(SiteShape("conv2d", (32, 7, 7), (32, 7, 7)), hidden=20)
    assert (second + third).params == 22_474 - 6_274


def test_features_are_made_from_an_image_where_the_layer_maps_one_to_features() -> None:
    shape = SiteShape("features", (1, 28, 28), (10,))
    blueprint = get_blueprint("mlp")
    module = blueprint.build(shape, None, hidden=40, depth=2)
    assert module(torch.randn(4, 1, 28, 28)).shape == (4, 10)
    norm, first, second, last = 2 * 784, 784 * 40 + 40, 40 * 40 + 40, 40 * 10 + 10
    assert blueprint.cost(shape, hidden=40, depth=2) == Cost(
        norm + first + second + last, 2 * (784 * 40 + 40 * 40 + 40 * 10)
    )


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("conv_heavy", SERIES_FEATURES, "not on 'features'"),
        ("mlp", SERIES_CONV, "works on features"),
        ("conv_heavy", SiteShape("conv2d", (4, 7, 7), (4, 5, 5)), "stride"),
        ("conv_heavy", SiteShape("conv2d", (4, 4, 4), (4, 8, 8)), "stride"),
        ("conv_heavy", series("conv2d", (4, 1, 1)), "single position"),
        ("low_rank", SiteShape("features", (3, 8), (4, 8)), "last axis"),
        ("low_rank", SiteShape("conv2d", (8,), (4, 8, 8)), "number of axes"),
        ("attention", series("features", (16,)), "positions"),
        ("attention", series("conv2d", (4, 40, 40)), "positions"),
        ("squeeze_excite", SiteShape("features", (8,), (9,)), "keeps the shape"),
        ("norm", SiteShape("features", (8,), (9,)), "keeps the shape"),
        ("norm", series("conv2d", (4, 1, 1)), "single position"),
        ("noise", series("features", (1,)), "layer norm"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_with_its_reason(
    name: str, shape: SiteShape, words: str
) -> None:
    blueprint = get_blueprint(name)
    reason = blueprint.unsupported(shape)
    assert reason is not None and words in reason
    assert blueprint.sizes(shape) == []
    with pytest.raises(GrowthError, match=f"blueprint '{name}' does not fit"):
        blueprint.build(shape)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hiden": 4}, "'hiden'.*Did you mean 'hidden'"),
        ({"hidden": 0}, "hidden is 0; it must be a positive integer"),
        ({"hidden": 2.5}, "hidden is 2.5; it must be a positive integer"),
        ({"hidden": True}, "hidden is True; it must be a positive integer"),
        ({"norm": 1}, "norm is 1; it must be true or false"),
        ({"activation": 3}, "activation is 3; it must be a text"),
        ({"activation": "swish"}, "unknown activation 'swish'; there are: gelu"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(GrowthError, match=words):
        get_blueprint("mlp").build(SERIES_FEATURES, None, **options)  # type: ignore[arg-type]


def test_heads_must_share_the_width_evenly() -> None:
    with pytest.raises(GrowthError, match="3 heads cannot share"):
        get_blueprint("attention").build(SERIES_FEATURES, None, hidden=16, heads=3)


@pytest.mark.parametrize("shape", [SERIES_CONV, SERIES_FEATURES, series("features", (16,))])
def test_noise_is_new_at_each_forward_as_large_as_its_input_and_survives_pooling(shape: SiteShape) -> None:
    """Harmful by construction: in eval mode too, whatever the input, and not averaged away over positions."""
    torch.manual_seed(0)
    module = get_blueprint("noise").build(shape).eval()
    x = 3.0 * torch.randn(256, *shape.in_shape)
    with torch.no_grad():
        first, second = module(x), module(x)
    assert not torch.equal(first, second)
    assert first.square().mean().sqrt().item() == pytest.approx(3.0, rel=0.1)
    if shape is SERIES_CONV:
        assert first.mean((2, 3)).square().mean().sqrt().item() == pytest.approx(3.0, rel=0.1)
    correlation = torch.corrcoef(torch.stack([x.flatten(), first.flatten()]))[0, 1]
    assert abs(correlation) < 0.05


def test_noise_cannot_learn_to_fall_silent() -> None:
    """Its parameters have gradients, as those of an honest seed have, but nothing that they can gain."""
    torch.manual_seed(0)
    module = get_blueprint("noise").build(SERIES_CONV, None, hidden=8)
    x = torch.randn(32, *SERIES_CONV.in_shape)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None for p in module.parameters())
    assert module(x).square().mean().sqrt() > 0.8


def test_site_shapes_refuse_what_is_none() -> None:
    with pytest.raises(GrowthError, match="unknown layout 'conv3d'"):
        SiteShape("conv3d", (1, 2, 2, 2), (1, 2, 2, 2))
    with pytest.raises(GrowthError, match="not the shape of one sample"):
        SiteShape("conv2d", (4, 4), (4, 4))
    with pytest.raises(GrowthError, match="at least 1"):
        SiteShape("features", (0,), (4,))
