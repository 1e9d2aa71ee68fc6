"""Seed stages, the table of legal moves and the names of the gates."""

from __future__ import annotations

from enum import StrEnum

from esper.errors import GrowthError


class SeedStage(StrEnum):
    """Where a seed is in its life; DORMANT means that the slot is only a record."""

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

# Stages in which the seed's module exists; in the others the slot is a record.
ALIVE = frozenset({_S.GERMINATED, _S.TRAINING, _S.BLENDING, _S.PROBATIONARY, _S.FOSSILIZED})
# Stages in which the seed's output reaches the host.
JOINED = frozenset({_S.BLENDING, _S.PROBATIONARY, _S.FOSSILIZED})


class Gate(StrEnum):
    """What has to hold before a seed may move on; see `esper.kasmina.gates`."""

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
    """Raise `GrowthError` unless a seed may move from `old` to `new`."""
    if new not in LEGAL_MOVES[old]:
        legal = ", ".join(sorted(LEGAL_MOVES[old])) or "none: the stage is final"
        raise GrowthError(f"a seed cannot move from {old} to {new}; legal from {old}: {legal}")
