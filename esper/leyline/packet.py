"""The state packet that Tolaria sends to a Tamiyo policy: health, seeds, sites, losses and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.leyline.lifecycle import SeedStage


@dataclass(frozen=True, slots=True)
class HealthSignal:
    """Measured health of one seed, or of the layer where the slot is dormant.

    Args:
        layer: name of the layer.
        seed_index: slot at that layer.
        chunk_id: number of the slot in the whole model.
        stage: stage of the seed.
        activation_variance: variance of the output values on the probe batch.
        dead_ratio: share of output units that do not vary over the probe batch, in [0, 1].
        gradient_norm: mean gradient norm.
        gradient_variance: variance of the gradient norm.
        latency_ms: duration of one forward on the probe batch, in milliseconds.
        memory_bytes: bytes of parameters, buffers and gradients.
        throughput: samples per second of that forward.
        error_count: how often a gate has blocked the seed.
        recovering: whether a gate has blocked the seed.
        rolling: means over the last `performance_window` signals, under the same names.

    Example:
        >>> [s.layer for s in packet.seeds if s.health and s.health.dead_ratio > 0.5]  # doctest: +SKIP
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
    """Validation with one seed on, compared with the seed off and everything else equal.

    Args:
        loss_gain: loss with the seed off minus loss with it on; positive where the seed helps.
        loss_gain_error: standard error of that paired difference. With sample weights it is the error of a
            ratio, sqrt(n / (n - 1) * sum((d - R w)^2)) / sum(w) with R = sum(d) / sum(w), where d is a
            sample's weighted difference and w its weight.
        accuracy_gain: accuracy on minus off (off minus on for a metric where lower is better); None where the
            task has no accuracy.
        samples: number of validation samples.
        error_over: what the standard error is taken over: "samples", or "batches" for a loss without a value
            per sample.
        error_values: how many of these there were.

    Example:
        >>> Impact(0.02, 0.01, accuracy_gain=0.005, samples=500).error_over
        'samples'
    """

    loss_gain: float
    loss_gain_error: float
    accuracy_gain: float | None
    samples: int
    error_over: str = "samples"
    error_values: int | None = None


def impact_evidence(impact: Impact) -> dict[str, float]:
    """Return the measured numbers as the evidence of a decision.

    Args:
        impact: the measurement.

    Returns:
        Names to values; `error_batches` is among them where the error is over batches.
    """
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
    """One seed that is not dormant.

    Args:
        layer: name of the layer.
        seed_index: slot at that layer.
        stage: stage of the seed.
        blueprint: name of its blueprint.
        placement: "series" or "parallel".
        params: number of parameters.
        alpha: blend weight in [0, 1].
        epochs_in_stage: epochs finished since the stage was entered.
        steps_in_stage: optimizer steps since the stage was entered.
        germinated_epoch: epochs finished when it was germinated.
        objective: its own smoothed training objective; None before it has trained in isolation.
        impact: its last measured impact on validation; None before the first measurement.
        health: its last health signal.
        flops: FLOPs of a forward of one sample; 0 where unknown.

    Example:
        >>> seed = SeedState("fc1", 0, SeedStage.BLENDING, "mlp", "series", 280, 0.5, 1, 40, 3)
        >>> seed.impact is None
        True
    """

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
    """A blueprint that fits a site, at one size.

    Args:
        blueprint: name of the blueprint.
        placement: "series" or "parallel".
        options: keyword arguments of the blueprint.
        params: number of parameters.
        flops: FLOPs of a forward of one sample.
        reads: number of values of one sample that the seed reads; 0 where unknown.

    Example:
        >>> Candidate("mlp", "series", {"hidden": 16}, params=280, flops=512).options["hidden"]
        16
    """

    blueprint: str
    placement: str
    options: Mapping[str, int | float | str | bool]
    params: int
    flops: int
    reads: int = 0


@dataclass(frozen=True, slots=True)
class SiteState:
    """A layer that can host seeds.

    Args:
        layer: name of the layer.
        depth: position in the forward, from 0 (first reached) to 1 (last reached).
        params: number of parameters of the layer.
        free_slots: indices of the dormant slots.
        candidates: blueprints that fit the layer and the limits.
        health: the layer's last health signal.

    Example:
        >>> site = SiteState("fc1", depth=0.0, params=100, free_slots=(0, 1), candidates=())
        >>> site.free_slots[0]
        0
    """

    layer: str
    depth: float
    params: int
    free_slots: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    health: HealthSignal | None = None


@dataclass(frozen=True, slots=True)
class SystemStatePacket:
    """All inputs of a policy's decision.

    Losses and accuracies are means over samples. Histories cover the last `performance_window` epochs, oldest
    first; they are empty before the first epoch ends, and accuracy histories of a task without accuracy are
    always empty.

    Args:
        session_name: name of the run.
        step: optimizer steps done.
        epoch: epochs finished.
        max_epochs: epochs of the run.
        steps_per_epoch: optimizer steps in an epoch.
        train_loss: running mean of the current epoch (of the last whole epoch at its end).
        train_loss_history: one mean training loss per epoch.
        val_loss_history: one mean validation loss per epoch.
        train_accuracy_history: one mean training accuracy per epoch.
        val_accuracy_history: one mean validation accuracy per epoch.
        params_host: parameters of the host.
        params_now: parameters of the host and of all seeds.
        seeds: seeds that are not dormant.
        sites: layers that can host seeds.
        hardware: measurements of the machine.
        max_params: upper bound of `params_now` after growth; None without a bound.
        flops_now: FLOPs of a forward of one sample; 0 where unknown.
        max_flops: upper bound of `flops_now` after growth; None without a bound.
        inputs: number of values of one sample that enter the host (or the first site); 0 where unknown.

    Example:
        >>> for site in packet.sites:  # doctest: +SKIP
        ...     print(site.layer, site.free_slots, [c.blueprint for c in site.candidates])
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
        """Share of the run's steps that are done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.steps_per_epoch * self.max_epochs))
