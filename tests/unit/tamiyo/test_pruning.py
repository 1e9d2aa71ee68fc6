"""Seeds stay or go by validation with them on against off."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from helpers.packets import health, impact, packet, seed
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import ConfigError
from esper.leyline import CommandKind, Impact, SeedStage, SeedState
from esper.tamiyo.pruning import PruningDecision, PruningRule, probability_above

STRICT = PruningRule(min_gain=0.0, confirmations=1)


def judged(state: SeedState, judge: PruningRule = STRICT, val_loss: float = 1.0) -> PruningDecision | None:
    decisions = judge.decisions(packet(seeds=(state,), val_loss_history=(val_loss,)))
    assert len(decisions) <= 1
    return decisions[0] if decisions else None


@given(st.floats(-1.0, 1.0), st.floats(1e-3, 1.0))
def test_the_verdict_follows_the_sign_and_its_confidence_the_error(gain: float, error: float) -> None:
    decision = judged(seed(impact=impact(gain, error)))
    chance = 0.5 * math.erfc(-gain / error / math.sqrt(2.0))
    if chance >= 0.7:
        assert decision is not None and decision.kind is CommandKind.FOSSILIZE
        assert decision.confidence == pytest.approx(chance)
    elif chance <= 0.3:
        assert decision is not None and decision.kind is CommandKind.CULL
        assert decision.confidence == pytest.approx(1.0 - chance)
    else:
        assert decision is None


def test_a_helpful_seed_is_kept_and_the_reason_carries_the_numbers() -> None:
    decision = judged(seed(impact=impact(0.25, 0.02, 0.031)))
    assert decision is not None and decision.kind is CommandKind.FOSSILIZE
    assert (
        "0.25 lower" in decision.reason and "1000 samples" in decision.reason and "+3.10" in decision.reason
    )
    assert decision.evidence["loss_gain"] == 0.25 and decision.evidence["chance"] == decision.confidence


def test_a_harmful_seed_is_culled() -> None:
    decision = judged(seed(impact=impact(-0.25, 0.02)))
    assert decision is not None and decision.kind is CommandKind.CULL and "0.25 higher" in decision.reason
    assert decision.confidence > 0.99


def test_a_seed_without_any_effect_is_culled_where_effect_is_exactly_none() -> None:
    decision = judged(seed(impact=impact(0.0, 0.0)))
    assert decision is not None and decision.kind is CommandKind.CULL and decision.confidence == 1.0


def test_a_gain_has_to_be_worth_its_share_of_the_loss() -> None:
    """min_gain is a share of the validation loss, so that one default serves losses of any size."""
    judge = PruningRule(min_gain=0.05, confirmations=1)
    for scale in (0.01, 1.0, 100.0):
        worth = judged(seed(impact=impact(0.08 * scale, 0.01 * scale)), judge, val_loss=scale)
        small = judged(seed(impact=impact(0.02 * scale, 0.01 * scale)), judge, val_loss=scale)
        assert worth is not None and worth.kind is CommandKind.FOSSILIZE
        assert small is not None and small.kind is CommandKind.CULL and "no help" in small.reason


def test_patience_with_a_seed_ends() -> None:
    unsure = impact(0.002, 0.01)
    assert judged(seed(impact=unsure, epochs_in_stage=2)) is None
    decision = judged(seed(impact=unsure, epochs_in_stage=3))
    assert decision is not None and decision.kind is CommandKind.CULL
    assert decision.confidence == 1.0 and "no measurable help in 3 epochs" in decision.reason


def test_harm_has_to_be_seen_in_two_epochs_in_a_row() -> None:
    """Measured: with batch norm and a high rate, a good seed looked bad for one epoch, noise in every one."""
    judge = PruningRule(patience_epochs=9, confirmations=2)

    def at(epoch: int, gain: float) -> CommandKind | None:
        decisions = judge.decisions(packet(epoch=epoch, seeds=(seed(impact=impact(gain)),)))
        return decisions[0].kind if decisions else None

    assert at(1, -0.5) is None
    assert at(1, -0.5) is None, "the same epoch again is no second witness"
    assert at(2, 0.0001) is None, "in between nothing is certain, so the count starts again"
    assert at(3, -0.5) is None
    assert at(4, -0.5) is CommandKind.CULL
    assert at(5, 0.5) is CommandKind.FOSSILIZE


def test_counts_against_a_seed_are_saved_and_removed_with_it() -> None:
    first, second = PruningRule(confirmations=2), PruningRule(confirmations=2)
    bad = packet(epoch=1, seeds=(seed(impact=impact(-0.5)),), val_loss_history=(1.0,))
    assert not first.decisions(bad)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    later = replace(bad, epoch=2)
    assert [v.kind for v in second.decisions(later)] == [CommandKind.CULL]
    first.decisions(packet(epoch=2))
    assert not first.decisions(replace(bad, epoch=3)), "the slot bears another seed now"


def test_a_seed_that_was_not_measured_is_waited_for() -> None:
    assert judged(seed(epochs_in_stage=50)) is None


@pytest.mark.parametrize("stage", [s for s in SeedStage if s is not SeedStage.PROBATIONARY])
def test_only_seeds_in_probation_are_judged_by_impact(stage: SeedStage) -> None:
    assert judged(seed(stage=stage, impact=impact(0.5))) is None


BROKEN = {
    "errors": ({"health": health(error_count=2)}, "2 errors"),
    "variance": ({"health": health(activation_variance=math.nan)}, "activation variance is nan"),
    "objective": ({"objective": math.inf}, "objective is inf"),
    "impact": ({"impact": Impact(math.nan, 0.1, 0.0, 10)}, "impact is nan"),
}


@pytest.mark.parametrize("mode", ["impact", "keep"])
@pytest.mark.parametrize(("state", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_seed_is_culled_at_once_in_any_stage(mode: str, state: dict, words: str) -> None:  # type: ignore[type-arg]
    stages = (SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY)
    for stage in stages:
        decision = judged(seed(stage=stage, **state), PruningRule(mode=mode))
        assert decision is not None and decision.kind is CommandKind.CULL
        assert (decision.confidence, decision.urgency) == (1.0, 1.0) and words in decision.reason
    for stage in (SeedStage.FOSSILIZED, SeedStage.CULLED, SeedStage.EMBARGOED):
        assert judged(seed(stage=stage, **state), PruningRule(mode=mode)) is None


def test_keep_takes_every_sound_seed_whatever_its_impact() -> None:
    for measured in (None, impact(-1.0)):
        decision = judged(seed(impact=measured), PruningRule(mode="keep"))
        assert decision is not None and decision.kind is CommandKind.FOSSILIZE and decision.confidence == 1.0


def test_broken_seeds_come_first_then_harmful_ones() -> None:
    seeds = (
        seed("good", impact=impact(0.5)),
        seed("bad", impact=impact(-0.5)),
        seed("broken", objective=math.nan),
    )
    decisions = STRICT.decisions(packet(seeds=seeds))
    assert [decision.seed.layer for decision in decisions] == ["broken", "bad", "good"]


@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0), st.floats(0.0, 1.0))
def test_the_chance_falls_as_more_is_asked(gain: float, needed: float, error: float) -> None:
    chance = probability_above(impact(gain, error), needed)
    assert 0.0 <= chance <= 1.0
    assert probability_above(impact(gain, error), needed + 0.1) <= chance


@pytest.mark.parametrize(
    ("gain", "error"), [(math.nan, 0.1), (math.inf, 0.1), (0.5, math.nan), (0.5, math.inf)]
)
def test_a_measurement_that_is_not_finite_is_no_evidence_of_help(gain: float, error: float) -> None:
    assert probability_above(Impact(gain, error, 0.0, 10), 0.0) == 0.0


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        PruningRule("impct", min_gain=-1.0, min_confidence=2.0, confirmations=0, patience_epochs=0)
    assert len(caught.value.problems) == 5
    assert "did you mean 'impact'" in caught.value.problems[0]
