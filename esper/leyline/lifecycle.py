"""Seed stages, the legal transitions between them, and the gates of each transition."""

from __future__ import annotations

from enum import StrEnum

from esper.errors import GrowthError


class SeedStage(StrEnum):
    """Stage of a seed's lifecycle; DORMANT means that the slot is empty."""

    DORMANT = "dormant"
    GERMINATED = "germinated"
    TRAINING = "training"
    BLENDING = "blending"
    PROBATIONARY = "probationary"
    FOSSILIZED = "fossilized"
    CULLED = "culled"
    EMBARGOED = "embargoed"


_S = SeedStage

LEGAL_MOVES: dict[SeedStage, frozenset[SeedStage]] = {
    _S.DORMANT: frozenset({_S.GERMINATED}),
    _S.GERMINATED: frozenset({_S.TRAINING, _S.CULLED}),
    _S.TRAINING: frozenset({_S.BLENDING, _S.CULLED}),
    _S.BLENDING: frozenset({_S.PROBATIONARY, _S.CULLED}),
    _S.PROBATIONARY: frozenset({_S.FOSSILIZED, _S.CULLED}),
    _S.FOSSILIZED: frozenset(),
    _S.CULLED: frozenset({_S.EMBARGOED}),
    _S.EMBARGOED: frozenset({_S.DORMANT}),
}

# Stages in which the seed's module exists; in the others the slot is only a record.
ALIVE = frozenset({_S.GERMINATED, _S.TRAINING, _S.BLENDING, _S.PROBATIONARY, _S.FOSSILIZED})
# Stages in which the seed's output is added to its layer's.
JOINED = frozenset({_S.BLENDING, _S.PROBATIONARY, _S.FOSSILIZED})


class Gate(StrEnum):
    """A check that must pass before a transition; see `esper.kasmina.gates`."""

    SANITY = "sanity"
    GRADIENT = "gradient"
    STABILITY = "stability"
    INTERFACE = "interface"
    IMPACT = "impact"
    RESET = "reset"


GATES: dict[tuple[SeedStage, SeedStage], tuple[Gate, ...]] = {
    (_S.DORMANT, _S.GERMINATED): (Gate.INTERFACE, Gate.SANITY),
    (_S.GERMINATED, _S.TRAINING): (Gate.SANITY,),
    (_S.TRAINING, _S.BLENDING): (Gate.SANITY, Gate.GRADIENT, Gate.STABILITY),
    (_S.BLENDING, _S.PROBATIONARY): (Gate.SANITY, Gate.STABILITY),
    (_S.PROBATIONARY, _S.FOSSILIZED): (Gate.SANITY, Gate.IMPACT),
    (_S.CULLED, _S.EMBARGOED): (Gate.RESET,),
    (_S.EMBARGOED, _S.DORMANT): (Gate.RESET,),
}


def check_move(old: SeedStage, new: SeedStage) -> None:
    """Check a stage transition against `LEGAL_MOVES`.

    Args:
        old: the current stage.
        new: the requested stage.

    Raises:
        GrowthError: the transition is not legal; the message lists the legal ones.
    """
    if new not in LEGAL_MOVES[old]:
        legal = ", ".join(sorted(LEGAL_MOVES[old])) or "none: the stage is final"
        raise GrowthError(f"a seed cannot move from {old} to {new}; legal from {old}: {legal}")
