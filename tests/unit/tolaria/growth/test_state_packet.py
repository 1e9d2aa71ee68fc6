"""What Tamiyo decides by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.grown import Grown, make_host
from helpers.packets import health
from helpers.runs import germinate, seed_command
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.config import TolariaConfig
from esper.kasmina import SiteShape, TrainingPosition, get_blueprint, register_blueprint
from esper.kasmina.blueprints import registry
from esper.leyline import CommandKind, Impact, SeedStage, SystemStatePacket
from esper.tolaria.growth.state_packet import History, PacketBuilder, hardware


@pytest.fixture(autouse=True)
def same_blueprints_after() -> Iterator[None]:
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


def builder(
    grown: Grown, *, ratio: float = 4.0, logged: list[str] | None = None, **changes: Any
) -> PacketBuilder:
    config = TolariaConfig(session_name="test")
    config.optimization.max_epochs = 10
    config.morphogenetic.max_params_ratio = ratio
    config.morphogenetic.blueprints = changes.pop("blueprints", ["mlp", "conv_light"])
    given: dict[str, Any] = {"history": History(3)}
    return PacketBuilder(
        grown.seeds,
        config=config,
        steps_per_epoch=20,
        on_broken=(logged if logged is not None else []).append,
        **given | changes,
    )


def build(grown: Grown, *, step: int = 45, epoch: int = 2, **changes: Any) -> SystemStatePacket:
    return builder(grown, **changes).build(step=step, epoch=epoch, train_loss=1.5, health={})


@given(st.lists(st.floats(0, 9), max_size=12), st.integers(1, 5))
def test_history_is_a_window(losses: list[float], window: int) -> None:
    history = History(window)
    for loss in losses:
        history.add({"train_loss": loss, "val_loss": 2 * loss, "train_accuracy": None, "val_accuracy": None})
    assert list(history.rows["train_loss"]) == losses[-window:]
    assert list(history.rows["val_loss"]) == [2 * loss for loss in losses][-window:]
    assert list(history.rows["val_accuracy"]) == []  # a task without accuracy has none
    other = History(window)
    other.load_state_dict(history.state_dict())
    assert other.rows == history.rows


def test_a_packet_of_a_bare_host() -> None:
    grown = make_host()
    packet = build(grown)
    assert (packet.session_name, packet.step, packet.epoch, packet.train_loss) == ("test", 45, 2, 1.5)
    assert packet.params_now == packet.params_host == grown.model.host_params()
    assert packet.max_params == 4 * packet.params_host
    assert packet.progress == 45 / 200
    assert packet.seeds == ()
    assert [(site.layer, site.depth, site.free_slots) for site in packet.sites] == [
        ("a", 0.0, (0, 1)),
        ("b", 1.0, (0, 1)),
    ]
    assert {c.blueprint for site in packet.sites for c in site.candidates} == {"mlp"}  # no convolution fits


def test_a_candidate_costs_what_it_costs_when_it_is_planted() -> None:
    grown = make_host()
    candidate = build(grown).sites[0].candidates[0]
    before = grown.model.total_params()
    command = germinate(
        "a", candidate.blueprint, placement=candidate.placement, options=dict(candidate.options)
    )
    grown.do(command)
    assert grown.model.total_params() - before == candidate.params


@given(st.floats(1.0, 6.0))
def test_what_is_on_offer_fits_the_room(ratio: float) -> None:
    grown = make_host()
    packet = build(grown, ratio=ratio)
    assert packet.max_params is not None
    room = packet.max_params - packet.params_now
    assert all(c.params <= room for site in packet.sites for c in site.candidates)
    shape = grown.model.site_shape("a", "series")
    everything = [
        get_blueprint("mlp").cost(shape, **options).params for options in get_blueprint("mlp").sizes(shape)
    ]
    offered = [c.params for c in packet.sites[0].candidates if c.placement == "series"]
    assert offered == [cost for cost in everything if cost <= room]


def test_seeds_are_listed_with_their_age_and_alpha() -> None:
    grown = make_host(isolation_steps=0, blend_steps=4, embargo_epochs=3)
    grown.do(germinate("a", "mlp", number=1), step=20, epoch=1)
    grown.seeds.tick()
    (seed,) = build(grown).seeds
    assert (seed.layer, seed.seed_index, seed.stage) == ("a", 0, SeedStage.BLENDING)
    assert (seed.blueprint, seed.placement, seed.alpha) == ("mlp", "series", 0.25)
    assert (seed.epochs_in_stage, seed.steps_in_stage, seed.germinated_epoch) == (1, 25, 1)
    assert seed.params == grown.model.total_params() - grown.model.host_params()
    assert seed.objective is None
    for _ in range(3):
        grown.seeds.tick()
    grown.advance(30, 2)
    grown.model.record("a", 0).impact = Impact(0.1, 0.01, 0.02, 50)
    (seed,) = build(grown).seeds
    assert (seed.stage, seed.alpha, seed.impact) == (
        SeedStage.PROBATIONARY,
        1.0,
        Impact(0.1, 0.01, 0.02, 50),
    )


def test_an_isolated_seed_tells_its_objective_and_takes_its_slot() -> None:
    grown = make_host(isolation_steps=50)
    grown.do(germinate("a", "mlp"))
    assert build(grown).seeds[0].objective is None  # it has not learnt yet
    grown.train_step()
    packet = build(grown)
    assert packet.seeds[0].stage is SeedStage.TRAINING
    assert packet.seeds[0].objective == pytest.approx(1.0, abs=0.1)
    assert packet.sites[0].free_slots == (1,)


def test_an_embargoed_slot_is_not_free() -> None:
    grown = make_host(blend_steps=0, embargo_epochs=3)
    grown.do(germinate("a", "mlp"))
    change = grown.do(seed_command(CommandKind.CULL, "a", number=2))
    grown.seeds.embargo(change.moves[0].record, 0, TrainingPosition(1, 1))
    packet = build(grown)
    assert packet.seeds[0].stage is SeedStage.EMBARGOED
    assert packet.sites[0].free_slots == (1,)


def test_a_full_site_offers_nothing() -> None:
    grown = make_host(slots=1)
    grown.do(germinate("a", "mlp"))
    first, second = build(grown, ratio=99.0).sites
    assert (first.free_slots, first.candidates) == ((), ())
    assert second.candidates


def test_health_goes_to_the_seed_or_the_first_free_slot() -> None:
    grown = make_host()
    grown.do(germinate("a", "mlp"))
    signals = {"a#0": health(seed_index=0), "a#1": health(seed_index=1)}
    packet = builder(grown).build(step=1, epoch=1, train_loss=1.0, health=signals)
    assert packet.seeds[0].health is signals["a#0"]
    assert packet.sites[0].health is signals["a#1"]
    assert packet.sites[1].health is None


def test_a_blueprint_that_raises_is_withdrawn_and_logged_once() -> None:
    """A user's blueprint with a bug does not end the run."""

    def fits(shape: SiteShape) -> None:
        raise ZeroDivisionError("a blueprint of the user's")

    register_blueprint("broken_fits", fits=fits)(lambda shape: nn.Identity())
    grown = make_host()
    logged: list[str] = []
    made = builder(grown, blueprints=["broken_fits", "mlp"], logged=logged)
    for _ in range(2):
        packet = made.build(step=1, epoch=1, train_loss=1.0, health={})
        assert {c.blueprint for site in packet.sites for c in site.candidates} == {"mlp"}
    assert len(logged) == 1
    assert "broken_fits" in logged[0]
    assert "ZeroDivisionError: a blueprint of the user's" in logged[0]


def test_hardware_is_measured() -> None:
    facts = hardware()
    assert facts["threads"] >= 1
    assert facts["memory_mb"] > 10
