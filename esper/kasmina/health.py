"""Health of seeds and of their target layers, measured on one probe batch.

Everything is measured outside of the training step, by hooks that exist only while the probe runs, so a
dormant slot costs nothing and a step never waits for the device.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina.model import MorphableModel
from esper.kasmina.model_buffers import preserve_buffers
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import GRAD_COUNT, GRAD_SQUARES, GRAD_SUM, Seed
from esper.kasmina.target_layers import first_tensor, layer_module, layout_of, main_output, probe_mode
from esper.leyline import HealthSignal, SeedStage
from esper.utils.device_and_rng import seeded_rng

# Statistics of an activation are taken from at most so many values: enough for two digits.
SAMPLE_VALUES = 16_384
# ... but from at least so many of each unit where there are as many: with fewer, a sparse unit looks dead.
MIN_VALUES = 64
# A unit whose output varies less than this over the probe batch counts as dead.
DEAD_VARIANCE = 1e-12
ROLLING = ("activation_variance", "dead_ratio", "gradient_norm", "latency_ms", "throughput")


class HealthMonitor:
    """Measures a `HealthSignal` of every seed alive and of every site with a dormant slot.

    Args:
        model: the growable model.
        window: number of signals in the rolling means.

    Example:
        >>> monitor = HealthMonitor(model, window=10)  # doctest: +SKIP
        >>> signals = monitor.measure(lambda: loss(model(x), y), samples=len(x))  # doctest: +SKIP
    """

    def __init__(self, model: MorphableModel, window: int) -> None:
        self.model = model
        self.window = window
        self.history: dict[str, dict[str, deque[float]]] = {}

    def measure(self, probe: Callable[[], Tensor], samples: int) -> dict[str, HealthSignal]:
        """Measure all signals with one forward and backward pass.

        No parameter, `.grad`, buffer or mode is changed, and no generator is advanced except by `probe`.

        Args:
            probe: runs one batch through the model and returns its loss, a scalar.
            samples: size of that batch.

        Returns:
            Signals by slot key (`SeedRecord.key`).
        """
        probes: dict[str, _LayerProbe] = {}
        handles = []
        for layer in self.model.sites:
            module = layer_module(self.model.host, layer)
            probes[layer] = layer_probe = _LayerProbe(self.model, layer)
            handles.append(module.register_forward_pre_hook(layer_probe.enter))
            handles.append(module.register_forward_hook(layer_probe.leave, with_kwargs=True, prepend=True))
        # also the backward pass, in which a host may run parts of its forward again
        with preserve_buffers(self.model), probe_mode(self.model):
            try:
                loss = probe()
            finally:
                for handle in handles:
                    handle.remove()
            _gradients(loss, probes)
        taken = [pair for layer_probe in probes.values() for pair in layer_probe.signals(samples)]
        keys = {_history_key(record) for record, _ in taken}
        self.history = {key: rows for key, rows in self.history.items() if key in keys}
        return {record.key: self._with_rolling(_history_key(record), raw) for record, raw in taken}

    def _with_rolling(self, key: str, signal: HealthSignal) -> HealthSignal:
        rows = self.history.setdefault(key, {name: deque(maxlen=self.window) for name in ROLLING})
        for name, row in rows.items():
            row.append(getattr(signal, name))
        return replace(signal, rolling={name: sum(row) / len(row) for name, row in rows.items()})

    def state_dict(self) -> dict[str, Any]:
        return {key: {name: list(row) for name, row in rows.items()} for key, rows in self.history.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history = {
            key: {name: deque(values, maxlen=self.window) for name, values in rows.items()}
            for key, rows in state.items()
        }


def _history_key(record: SeedRecord) -> str:
    """Return the key of a signal's history: one seed's (not an earlier one's in its slot) or a layer's."""
    return f"{record.key}@{record.germinated_step}" if record.alive else record.layer


class _LayerProbe:
    """Measurements at one layer during the probe."""

    def __init__(self, model: MorphableModel, layer: str) -> None:
        self.layer = layer
        self.rows = model.records[layer]
        self.seeds = [(r, model.seed_module(r)) for r in self.rows if r.alive]
        self.module = layer_module(model.host, layer)
        self.started = self.layer_ms = 0.0
        self.output: Tensor | None = None
        self.gradient: Tensor | None = None
        self.layer_stats = (0.0, 0.0)
        self.seed_stats: dict[str, tuple[float, float, float]] = {}

    def enter(self, module: nn.Module, args: Any) -> None:
        self.started = time.perf_counter()

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        h = main_output(output)
        if h is None or h.dim() < 2:
            return
        _synchronize(h.device)
        self.layer_ms = 1e3 * (time.perf_counter() - self.started)
        self.output = h
        layout = layout_of(module, h)
        self.layer_stats = _activation_stats(h.detach(), layout)
        x = first_tensor(args, kwargs)
        for record, seed in self.seeds:
            self.seed_stats[record.key] = _seed_stats(seed, h if x is None else x, h, layout)

    def signals(self, samples: int) -> list[tuple[SeedRecord, HealthSignal]]:
        if self.output is None:
            return []
        found = [(r, self._seed_signal(r, seed, samples)) for r, seed in self.seeds]
        free = next((r for r in self.rows if r.stage is SeedStage.DORMANT), None)
        if free is not None:
            found.append((free, self._layer_signal(free, samples)))
        return found

    def _seed_signal(self, record: SeedRecord, seed: Seed, samples: int) -> HealthSignal:
        variance, dead, latency = self.seed_stats[record.key]
        total, squares, count = (seed.stats[i].item() for i in (GRAD_SUM, GRAD_SQUARES, GRAD_COUNT))
        mean = total / count if count else 0.0
        spread = max(0.0, squares / count - mean * mean) if count else 0.0
        return _signal(record, (variance, dead), (mean, spread), latency, _bytes(seed), samples)

    def _layer_signal(self, record: SeedRecord, samples: int) -> HealthSignal:
        mean = spread = 0.0
        if self.gradient is not None:
            norms = self.gradient.flatten(1).float().norm(dim=1)
            mean, spread = norms.mean().item(), norms.var(correction=0).item()
        memory = _bytes(self.module)
        return _signal(record, self.layer_stats, (mean, spread), self.layer_ms, memory, samples)


def _signal(
    record: SeedRecord,
    activations: tuple[float, float],
    gradient: tuple[float, float],
    latency_ms: float,
    memory: int,
    samples: int,
) -> HealthSignal:
    """A health signal; `activations` are variance and dead ratio, `gradient` norm and its variance."""
    return HealthSignal(
        layer=record.layer,
        seed_index=record.index,
        chunk_id=record.chunk_id,
        stage=record.stage,
        activation_variance=activations[0],
        dead_ratio=activations[1],
        gradient_norm=gradient[0],
        gradient_variance=gradient[1],
        latency_ms=latency_ms,
        memory_bytes=memory,
        throughput=samples / max(latency_ms / 1e3, 1e-9),
        error_count=record.error_count,
        recovering=record.error_count > 0,
    )


def _gradients(loss: Tensor, probes: Mapping[str, _LayerProbe]) -> None:
    """Compute the gradient of the loss at every layer that the probe reached; `.grad` is not changed."""
    reached = [v for v in probes.values() if v.output is not None and v.output.requires_grad]
    if not reached or not loss.requires_grad:
        return
    outputs = [v.output for v in reached if v.output is not None]
    for layer_probe, grad in zip(reached, torch.autograd.grad(loss, outputs, allow_unused=True), strict=True):
        layer_probe.gradient = grad


def _activation_stats(h: Tensor, layout: str) -> tuple[float, float]:
    """Return the variance of the values and the share of units that do not vary over the batch."""
    values = _sampled(h, layout).float()
    variance = values.var(correction=0).item()
    if len(values) < 2:
        return variance, 0.0
    return variance, (values.var(dim=0, correction=0) < DEAD_VARIANCE).float().mean().item()


def _sampled(h: Tensor, layout: str) -> Tensor:
    """Return some values of every unit, (values, units); only these are copied."""
    if layout == "features":
        rows = h.flatten(0, -2)
        return rows[:: _stride(*rows.shape)]
    images = h.flatten(2)
    batch, units, places = images.shape
    at = torch.arange(0, batch * places, _stride(batch * places, units), device=h.device)
    return images[at // places, :, at % places]


def _stride(values: int, units: int) -> int:
    # odd, so that it does not fall on the same column of every image
    return min(values * units // SAMPLE_VALUES, values // MIN_VALUES) | 1


def _seed_stats(seed: Seed, x: Tensor, h: Tensor, layout: str) -> tuple[float, float, float]:
    with torch.no_grad(), seeded_rng(seed.rng_seed, h.device):
        start = time.perf_counter()
        delta = seed.delta(x, h)
        _synchronize(h.device)
        latency_ms = 1e3 * (time.perf_counter() - start)
    return *_activation_stats(delta, layout), latency_ms


def _bytes(module: nn.Module) -> int:
    held = [*module.parameters(), *module.buffers()]
    held += [p.grad for p in module.parameters() if p.grad is not None]
    return sum(t.numel() * t.element_size() for t in held)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
