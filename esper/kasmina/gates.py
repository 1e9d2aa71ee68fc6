"""The gates: checks before a stage transition. Every result carries the numbers that it is based on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from esper.errors import GateClosedError
from esper.kasmina.model_buffers import preserve_buffers
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import GRAD_COUNT, GRAD_SUM, OBJECTIVE_FIRST, OBJECTIVE_NOW, Seed
from esper.leyline import Gate, Impact, impact_evidence
from esper.utils.device_and_rng import seeded_rng

# A seed with a larger gradient norm is diverging.
MAX_GRADIENT_NORM = 1e4
# More than one, so that a lost batch axis is found, and batch norm can be tried.
TRIAL_SAMPLES = 3
# The seed's bounded objective starts at 1; far above that it has diverged.
MAX_OBJECTIVE = 2.0


@dataclass(frozen=True, slots=True)
class GateResult:
    """The result of one gate.

    Args:
        gate: which gate.
        passed: whether it passed.
        reason: one sentence.
        evidence: the measured numbers.
    """

    gate: Gate
    passed: bool
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


def sanity(seed: nn.Module) -> GateResult:
    """Check that no parameter or buffer of the seed is NaN or infinite."""
    tensors = [t for t in (*seed.parameters(), *seed.buffers()) if t.is_floating_point()]
    bad = int(sum((~torch.isfinite(t)).sum() for t in tensors)) if tensors else 0
    reason = "all values are finite" if bad == 0 else f"{bad} values are NaN or infinite"
    return GateResult(Gate.SANITY, bad == 0, reason, {"non_finite": float(bad)})


def interface(seed: Seed, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> GateResult:
    """Check that the seed maps the layer's shapes to finite values that can be added to its output.

    Runs a few samples in eval and in training mode; buffers, modes and generators are restored.
    """
    reference = next((p for p in seed.parameters() if p.is_floating_point()), seed.alpha)
    wanted = (TRIAL_SAMPLES, *out_shape)
    x = torch.zeros((TRIAL_SAMPLES, *in_shape), device=reference.device, dtype=reference.dtype)
    h = torch.zeros(wanted, device=reference.device, dtype=reference.dtype)
    try:
        outputs = _trial(seed, x, h)
        finite = all(bool(torch.isfinite(out).all()) for out in outputs)
    except Exception as error:  # noqa: BLE001 - a blueprint may be the user's own code
        return GateResult(Gate.INTERFACE, False, f"its module fails on shape {in_shape}: {error}")
    got = next((tuple(out.shape) for out in outputs if out.shape != wanted), wanted)
    return GateResult(Gate.INTERFACE, got == wanted and finite, _shape_reason(got, wanted, finite))


def _shape_reason(got: tuple[int, ...], wanted: tuple[int, ...], finite: bool) -> str:
    if got[:1] != wanted[:1]:
        return f"of {TRIAL_SAMPLES} samples its output, of shape {got}, holds another number"
    if got != wanted:
        return f"output shape {got[1:]} is not the layer's {wanted[1:]}"
    return f"output shape {got[1:]}" + ("" if finite else ", with values that are NaN or infinite")


def _trial(seed: Seed, x: Tensor, h: Tensor) -> list[Tensor]:
    was_training = seed.training
    try:
        with preserve_buffers(seed), torch.no_grad(), seeded_rng(seed.rng_seed, x.device):
            return [seed.train(training).delta(x, h) for training in (False, True)]
    finally:
        seed.train(was_training)


def gradient(seed: Seed) -> GateResult:
    """Check that the seed got gradients while it was isolated, of a plausible size."""
    total, count = seed.stats[GRAD_SUM].item(), seed.stats[GRAD_COUNT].item()
    if count == 0:
        return GateResult(Gate.GRADIENT, True, "no isolated steps, so nothing to check", {"samples": 0.0})
    mean = total / count
    passed = math.isfinite(mean) and 0.0 < mean < MAX_GRADIENT_NORM
    evidence = {"gradient_norm": mean, "samples": count}
    return GateResult(
        Gate.GRADIENT, passed, f"mean gradient norm {mean:.3g} over {count:.0f} samples", evidence
    )


def stability(seed: Seed) -> GateResult:
    """Check that the seed's own objective has not diverged; a seed that was never isolated has none."""
    first, now = seed.stats[OBJECTIVE_FIRST].item(), seed.stats[OBJECTIVE_NOW].item()
    passed = math.isfinite(now) and now < MAX_OBJECTIVE
    evidence = {"objective_first": first, "objective_now": now}
    return GateResult(Gate.STABILITY, passed, f"objective {first:.4g} -> {now:.4g}", evidence)


def impact(measured: Impact | None) -> GateResult:
    """Check that the seed helps on held-out data: the loss with it off is higher than with it on."""
    if measured is None:
        return GateResult(Gate.IMPACT, False, "its impact has not been measured")
    passed = math.isfinite(measured.loss_gain) and measured.loss_gain > 0.0
    error = f"{measured.loss_gain_error:.4f}"
    if measured.error_over != "samples":
        error += f" (over {measured.error_values} {measured.error_over})"
    reason = f"held-out loss {measured.loss_gain:+.4f} +- {error} better with it"
    if measured.accuracy_gain is not None:
        reason += f", accuracy {100 * measured.accuracy_gain:+.2f} points"
    return GateResult(Gate.IMPACT, passed, reason, impact_evidence(measured))


def reset(parameters: int, hooks: int, optimiser: int | None) -> GateResult:
    """Check that nothing of a culled seed is left.

    Args:
        parameters: number of its parameters in the model.
        hooks: number of leaked hooks at its layer.
        optimiser: number of its entries in the optimizers; None where unknown.
    """
    evidence = {"parameters": float(parameters), "hooks": float(hooks)}
    if optimiser is not None:
        evidence["optimiser_entries"] = float(optimiser)
    left = sum(evidence.values())
    reason = "nothing left behind" if left == 0 else f"left behind: {evidence}"
    return GateResult(Gate.RESET, left == 0, reason, evidence)


def require_passed(results: Sequence[GateResult], record: SeedRecord) -> None:
    """Raise `GateClosedError` for the first gate that did not pass."""
    for result in results:
        if not result.passed:
            where = f"seed {record.index} at {record.layer!r}"
            raise GateClosedError(f"gate {result.gate} is closed for {where}: {result.reason}")
