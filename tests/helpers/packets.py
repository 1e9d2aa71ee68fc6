"""Packets for the tests of policies: by hand, by hypothesis, and by a small world that obeys commands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from esper.leyline import (
    ALIVE,
    AdaptationCommand,
    Candidate,
    CommandKind,
    HealthSignal,
    Impact,
    Outcome,
    Refusal,
    SeedStage,
    SeedState,
    SiteState,
    SystemStatePacket,
)


def candidate(
    blueprint: str, params: int, *, placement: str = "series", flops: int | None = None
) -> Candidate:
    return Candidate(
        blueprint, placement, {"hidden": params}, params, 98 * params if flops is None else flops
    )


def site(layer: str, depth: float, candidates: list[Candidate], slots: tuple[int, ...] = (0, 1)) -> SiteState:
    return SiteState(layer, depth, 1000, slots, tuple(candidates))


def seed(layer: str = "block2", **changes: Any) -> SeedState:
    """A seed in probation, not measured yet."""
    given = {
        "layer": layer,
        "seed_index": 0,
        "stage": SeedStage.PROBATIONARY,
        "blueprint": "conv_heavy",
        "placement": "series",
        "params": 4640,
        "alpha": 1.0,
        "epochs_in_stage": 1,
        "steps_in_stage": 100,
        "germinated_epoch": 0,
    }
    return SeedState(**(given | changes))


def impact(gain: float, error: float = 0.01, accuracy_gain: float = 0.01) -> Impact:
    return Impact(gain, error, accuracy_gain, 1000)


def health(**changes: Any) -> HealthSignal:
    given = {
        "layer": "block2",
        "seed_index": 0,
        "chunk_id": 0,
        "stage": SeedStage.PROBATIONARY,
        "activation_variance": 1.0,
        "dead_ratio": 0.0,
        "gradient_norm": 1.0,
        "gradient_variance": 0.1,
        "latency_ms": 1.0,
        "memory_bytes": 1000,
        "throughput": 1000.0,
    }
    return HealthSignal(**(given | changes))


def packet(**changes: Any) -> SystemStatePacket:
    """A run of ten epochs of a hundred steps, at its first decision, on a host of 6,274 parameters."""
    given = {
        "session_name": "test",
        "step": 50,
        "epoch": 0,
        "max_epochs": 10,
        "steps_per_epoch": 100,
        "train_loss": 1.0,
        "train_loss_history": (),
        "val_loss_history": (),
        "train_accuracy_history": (),
        "val_accuracy_history": (),
        "params_host": 6274,
        "params_now": 6274,
        "seeds": (),
        "sites": (),
        "max_params": 4 * 6274,
    }
    return SystemStatePacket(**(given | changes))


# The catalogue at the three blocks of the small convnet, by hidden channels.
CHANNELS = {"block1": 8, "block2": 16, "block3": 32}
HIDDEN = (4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)


def convnet_sites(blueprints: tuple[str, ...] = ("conv_heavy", "conv_light")) -> list[SiteState]:
    taps = {"conv_heavy": 18, "conv_light": 10, "noise": 18, "depthwise": 2, "no_op": 0}
    return [
        site(
            layer,
            depth,
            [
                candidate(name, taps[name] * channels * hidden)
                for name in blueprints
                for hidden in HIDDEN
                if hidden <= 4 * channels
            ],
        )
        for depth, (layer, channels) in zip((0.0, 0.5, 1.0), CHANNELS.items(), strict=True)
    ]


class World:
    """Obeys commands as Kasmina and the control loop would, a tenth of the run at a time.

    `gains` is the true loss gain of each blueprint. A command for a layer that is not there is refused.
    """

    def __init__(
        self,
        gains: dict[str, float],
        sites: list[SiteState] | None = None,
        max_params: int = 4 * 6274,
    ) -> None:
        self.gains = gains
        self.sites = convnet_sites() if sites is None else sites
        self.max_params = max_params
        self.seeds: dict[tuple[str, int], SeedState] = {}
        self.epoch = 0
        self.outcomes: list[Outcome] = []

    def packet(self) -> SystemStatePacket:
        params = 6274 + sum(s.params for s in self.seeds.values() if s.stage in ALIVE)
        free = [
            replace(
                site,
                free_slots=tuple(i for i in site.free_slots if (site.layer, i) not in self.seeds),
                candidates=tuple(c for c in site.candidates if c.params <= self.max_params - params),
            )
            for site in self.sites
        ]
        losses = tuple(1.0 - 0.05 * n for n in range(self.epoch))
        return packet(
            step=100 * self.epoch,
            epoch=self.epoch,
            params_now=params,
            max_params=self.max_params,
            sites=tuple(free),
            seeds=tuple(self.seeds.values()),
            val_loss_history=losses,
            train_loss_history=losses,
        )

    def live(self, policy: Any, epochs: int = 10) -> list[Outcome]:
        """Let the policy decide for some epochs; returns the outcomes of all its commands."""
        for _ in range(epochs):
            for command in policy.decide(self.packet()):
                known = any(site.layer == command.layer for site in self.sites)
                refusal = None if known else Refusal.INVALID
                if refusal is None:
                    self._obey(command)
                self.outcomes.append(Outcome(command, refusal, "", 100 * self.epoch, self.epoch))
                policy.report(self.outcomes[-1])
            self.epoch += 1
            for key, state in list(self.seeds.items()):
                self.seeds[key] = self._older(state)
        return self.outcomes

    def _obey(self, command: AdaptationCommand) -> None:
        key = (command.layer, command.seed_index)
        if command.kind is CommandKind.GERMINATE:
            assert key not in self.seeds
            params = int(command.evidence["params"])
            self.seeds[key] = seed(
                command.layer,
                seed_index=command.seed_index,
                stage=SeedStage.BLENDING,
                blueprint=command.blueprint,
                placement=command.placement,
                params=params,
            )
        elif command.kind is CommandKind.FOSSILIZE:
            self.seeds[key] = replace(self.seeds[key], stage=SeedStage.FOSSILIZED)
        elif command.kind is CommandKind.CULL:
            self.seeds[key] = replace(self.seeds[key], stage=SeedStage.EMBARGOED, epochs_in_stage=0)

    def _older(self, state: SeedState) -> SeedState:
        if state.stage is SeedStage.BLENDING:
            return replace(
                state,
                stage=SeedStage.PROBATIONARY,
                epochs_in_stage=0,
                impact=impact(self.gains[state.blueprint]),
            )
        return replace(state, epochs_in_stage=state.epochs_in_stage + 1)

    def done(self, kind: CommandKind) -> list[AdaptationCommand]:
        return [o.command for o in self.outcomes if o.applied and o.command.kind is kind]


NUMBERS = st.one_of(st.floats(-2.0, 5.0), st.sampled_from([float("nan"), float("inf"), 0.0]))
LAYERS = ("a", "b", "c")


@st.composite
def _impacts(draw: st.DrawFn) -> Impact | None:
    if draw(st.booleans()):
        return None
    return Impact(draw(NUMBERS), draw(st.floats(0.0, 1.0)), draw(st.floats(-1.0, 1.0)), 100)


@st.composite
def packets(draw: st.DrawFn) -> SystemStatePacket:
    """Any packet: sites with and without room, seeds in any stage, losses that may be broken."""
    room = draw(st.integers(0, 5000))
    now = draw(st.integers(100, 5000))
    sites, seeds = [], []
    for layer in draw(st.lists(st.sampled_from(LAYERS), unique=True)):
        taken = draw(st.sets(st.integers(0, 3)))
        offers = draw(st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), st.integers(0, room)), max_size=6))
        candidates = [
            candidate(name, params, placement=draw(st.sampled_from(["series", "parallel"])))
            for name, params in offers
        ]
        free = tuple(index for index in range(4) if index not in taken)
        sites.append(site(layer, draw(st.floats(0.0, 1.0)), candidates, free))
        seeds += [
            seed(
                layer,
                seed_index=index,
                stage=draw(st.sampled_from([stage for stage in SeedStage if stage is not SeedStage.DORMANT])),
                blueprint=draw(st.sampled_from(["x", "y", "z"])),
                epochs_in_stage=draw(st.integers(0, 9)),
                objective=draw(st.none() | NUMBERS),
                impact=draw(_impacts()),
                health=draw(st.none() | st.builds(health, activation_variance=NUMBERS)),
            )
            for index in sorted(taken)
        ]
    epoch = draw(st.integers(0, 10))
    losses = st.lists(NUMBERS, max_size=3).map(tuple)
    return packet(
        epoch=epoch,
        step=100 * epoch + draw(st.integers(0, 99)),
        params_now=now,
        max_params=draw(st.none() | st.just(now + room)),
        train_loss=draw(NUMBERS),
        train_loss_history=draw(losses),
        val_loss_history=draw(losses),
        sites=tuple(sites),
        seeds=tuple(seeds),
    )


REFUSALS = st.none() | st.sampled_from(list(Refusal))
