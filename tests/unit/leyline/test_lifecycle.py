from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import GrowthError
from esper.leyline import ALIVE, GATES, JOINED, LEGAL_MOVES, Gate, SeedStage, check_move

S = SeedStage
FORWARD = [S.DORMANT, S.GERMINATED, S.TRAINING, S.BLENDING, S.PROBATIONARY, S.FOSSILIZED]
# The legal moves, written down a second time: forward, out of the middle, and back to the start
TABLE = {
    *itertools.pairwise(FORWARD),
    *((stage, S.CULLED) for stage in FORWARD[1:5]),
    (S.CULLED, S.EMBARGOED),
    (S.EMBARGOED, S.DORMANT),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)))
def test_every_pair_is_legal_exactly_where_the_table_says(old: SeedStage, new: SeedStage) -> None:
    """Any other pair raises."""
    if (old, new) in TABLE:
        check_move(old, new)
    else:
        with pytest.raises(GrowthError, match=f"from {old} to {new}; legal from {old}: "):
            check_move(old, new)


def test_the_error_lists_what_is_legal() -> None:
    with pytest.raises(GrowthError, match=r"legal from training: blending, culled$"):
        check_move(S.TRAINING, S.FOSSILIZED)
    with pytest.raises(GrowthError, match="none: the stage is final"):
        check_move(S.FOSSILIZED, S.CULLED)


def test_gates_stand_at_legal_moves_and_cover_the_spec() -> None:
    """Sanity, gradient health, stability, interface, impact and reset."""
    assert set(GATES) <= TABLE
    assert {gate for gates in GATES.values() for gate in gates} == set(Gate)
    # only the way out has no gate: nothing may keep a bad seed in
    assert TABLE - set(GATES) == {(stage, S.CULLED) for stage in FORWARD[1:5]}


def test_a_seed_reaches_the_host_only_while_it_lives() -> None:
    assert JOINED < ALIVE < set(S)
    assert set(S) - ALIVE == {S.DORMANT, S.CULLED, S.EMBARGOED}


@given(st.lists(st.randoms(use_true_random=False), max_size=30))
def test_every_walk_ends_only_in_fossilized(choices: list[object]) -> None:
    stage = S.DORMANT
    for choice in choices:
        if stage is S.FOSSILIZED:
            break
        stage = choice.choice(sorted(LEGAL_MOVES[stage]))  # type: ignore[attr-defined]
    assert stage is S.FOSSILIZED or LEGAL_MOVES[stage]


def test_the_vocabulary_loads_without_torch() -> None:
    """Leyline is standard library only."""
    code = (
        "import sys, esper.leyline; "
        "print([m for m in ('torch', 'numpy', 'omegaconf', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
