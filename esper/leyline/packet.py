"""What Tolaria tells Tamiyo about a run: health, seeds, sites, and the packet that holds them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.leyline.lifecycle import SeedStage


@dataclass(frozen=True, slots=True)
class HealthSignal:
    """Measured health of one seed, or of a dormant slot's layer.

    `latency_ms` is a forward of the seed (of the layer where the slot is dormant) on the probe batch,
    `throughput` its samples per second, `memory_bytes` parameters, buffers and gradients.
    `rolling` holds means over the last `performance_window` signals under the same names.
    """

    layer: str
    seed_index: int
    chunk_id: int
    stage: SeedStage
    activation_variance: float
    dead_ratio: float
    gradient_norm: float
    gradient_variance: float
    latency_ms: float
    memory_bytes: int
    throughput: float
    error_count: int = 0
    recovering: bool = False
    rolling: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Impact:
    """Validation with one seed on against off, everything else equal.

    `loss_gain` is loss off minus loss on (positive: the seed helps), `loss_gain_error` the standard error of
    that paired difference over `error_values` samples, or over batches where `error_over` says so: not every
    loss has a value for each sample. Where samples weigh differently it is that of a ratio,
    sqrt(n / (n - 1) * sum((d - R w)^2)) / sum(w) with R = sum(d) / sum(w), d the weighted difference of a
    sample and w its weight. `accuracy_gain` is accuracy on minus off (of a metric where lower is better: off
    minus on), None where the task has no accuracy.
    """

    loss_gain: float
    loss_gain_error: float
    accuracy_gain: float | None
    samples: int
    error_over: str = "samples"
    error_values: int | None = None


def impact_evidence(impact: Impact) -> dict[str, float]:
    """The measured numbers, for a verdict's evidence; `error_batches` where the error is over batches."""
    evidence = {
        "loss_gain": impact.loss_gain,
        "loss_gain_error": impact.loss_gain_error,
        "samples": float(impact.samples),
    }
    if impact.accuracy_gain is not None:
        evidence["accuracy_gain"] = impact.accuracy_gain
    if impact.error_over != "samples":
        evidence[f"error_{impact.error_over}"] = float(impact.error_values or 0)
    return evidence


@dataclass(frozen=True, slots=True)
class SeedState:
    """One seed that is not dormant."""

    layer: str
    seed_index: int
    stage: SeedStage
    blueprint: str
    placement: str
    params: int
    alpha: float
    epochs_in_stage: int
    steps_in_stage: int
    germinated_epoch: int
    objective: float | None = None
    impact: Impact | None = None
    health: HealthSignal | None = None
    flops: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A blueprint that fits a site, at one size; `options` are its arguments.

    `reads` is how many values of one sample the seed would read; 0 where nobody counted.
    """

    blueprint: str
    placement: str
    options: Mapping[str, int | float | str | bool]
    params: int
    flops: int
    reads: int = 0


@dataclass(frozen=True, slots=True)
class SiteState:
    """A layer that can host seeds. `depth` runs from 0 (first reached) to 1 (last reached)."""

    layer: str
    depth: float
    params: int
    free_slots: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    health: HealthSignal | None = None


@dataclass(frozen=True, slots=True)
class SystemStatePacket:
    """Everything a policy may decide by. Losses and accuracies are means over samples; the histories
    run over the last `performance_window` epochs, oldest first, and are empty before the first epoch ends.
    `accuracy` entries are None-free: a task without accuracy has empty accuracy histories.
    `train_loss` is the running mean of the current epoch (the last whole one at its end).
    `max_params` bounds `params_now` after growth, `max_flops` bounds `flops_now` (of a forward of one sample,
    0 where it could not be counted); None where no bound is stated. `inputs` is how many values of one sample
    enter the host, or the site that is reached first; 0 where nobody counted.
    """

    session_name: str
    step: int
    epoch: int
    max_epochs: int
    steps_per_epoch: int
    train_loss: float
    train_loss_history: tuple[float, ...]
    val_loss_history: tuple[float, ...]
    train_accuracy_history: tuple[float, ...]
    val_accuracy_history: tuple[float, ...]
    params_host: int
    params_now: int
    seeds: tuple[SeedState, ...]
    sites: tuple[SiteState, ...]
    hardware: Mapping[str, float | str] = field(default_factory=dict)
    max_params: int | None = None
    flops_now: int = 0
    max_flops: int | None = None
    inputs: int = 0

    @property
    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]."""
        return min(1.0, self.step / max(1, self.steps_per_epoch * self.max_epochs))
