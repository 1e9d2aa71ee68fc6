"""The arms, and the configuration of each: the shipped one with the overrides that a user would type."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper import TolariaConfig
from esper.cli.flags import Flags
from esper.cli.plan import make_plan
from esper.config.hashing import config_hash
from growth_arms.tasks import EVERYWHERE, MOST_SEEDS, Task

STATIC_SMALL, STATIC_BIG, STATIC_EQUAL = "static_small", "static_big", "static_equal"
RANDOM, SCHEDULED, ESPER, SCRATCH = "random", "scheduled", "esper", "scratch"
SWEEP, GROMO = "sweep", "gromo"
ARMS = {
    STATIC_SMALL: "the host alone",
    STATIC_BIG: "as large as growth may become, from the start",
    STATIC_EQUAL: "as many parameter-epochs as growth may use, spent evenly",
    GROMO: "GroMo's grow-TINY, 16 to 64 in six steps (G1)",
    RANDOM: "growth at random times and places, within esper's caps",
    SCHEDULED: "growth on the plan of a competent user",
    ESPER: "growth by the policy under test",
    SCRATCH: "what esper ended with, from the start, with random output layers",
    SWEEP: "random topologies of the same catalogue and caps, from the start",
}
STATIC = (STATIC_SMALL, STATIC_BIG, STATIC_EQUAL, GROMO)
SWEEP_SEED = 0  # all swept topologies share a split and the weights of the host


_OFFERS = ("blueprints", "max_params_ratio", "max_flops_ratio")  # what a topology is drawn from


@dataclass(frozen=True, slots=True)
class Spec:
    """One run: `seed` numbers the run, or the topology of a sweep; `topology` is attached before step 0."""

    task: Task
    arm: str
    seed: int
    policy: str
    topology: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def config(self) -> TolariaConfig:
        run_seed = SWEEP_SEED if self.arm == SWEEP else self.seed
        return compose([*overrides(self.task, self.arm, self.policy), f"seed={run_seed}"])


def overrides(task: Task, arm: str, policy: str) -> list[str]:
    """The command line of an arm, without its seed."""
    size = {STATIC_BIG: task.big, STATIC_EQUAL: task.equal}.get(arm, task.small)
    lines = [*task.shared, *EVERYWHERE, str(size)]
    chosen = {RANDOM: RANDOM, SCHEDULED: SCHEDULED, ESPER: policy}.get(arm)
    if chosen is None:
        return [*lines, "morphogenetic.tamiyo_enabled=false"]
    lines.append(f"morphogenetic/policy={chosen}")
    if arm == SCHEDULED:  # whose plan keeps the caps by its times
        return [*lines, _params_cap(task, task.max_params), f"morphogenetic.policy.seeds={_hydra(task.plan)}"]
    if arm == RANDOM:
        lines.append(f"morphogenetic.policy.max_seeds={MOST_SEEDS}")
    return [*lines, *_caps(task, task.grown_params, task.grown_flops)]


def sweep_source(task: Task) -> TolariaConfig:
    """The configuration whose catalogue and cap the topologies of a sweep are drawn from."""
    narrow = _caps(task, task.grown_params, task.grown_flops)
    lines = [line for line in overrides(task, RANDOM, RANDOM) if line not in narrow]
    return compose([*lines, *_caps(task, task.max_params, task.max_flops)])


def compose(lines: Sequence[str]) -> TolariaConfig:
    """What `esper-train` would run with these overrides."""
    return _composed(tuple(lines))


@functools.cache
def _composed(lines: tuple[str, ...]) -> TolariaConfig:
    return make_plan(Flags(lines)).jobs[0].config


def arm_hash(task: Task, arm: str, policy: str) -> str:
    """What an arm computes, its seed apart; what grows is left out where nothing does."""
    source = sweep_source(task) if arm == SWEEP else compose(overrides(task, arm, policy))
    data = source.to_dict()
    if arm in STATIC:
        data.pop("morphogenetic")
        data["model"] = {name: data["model"][name] for name in ("architecture", "model_params")}
    if arm == SWEEP:
        data["morphogenetic"] = {name: data["morphogenetic"][name] for name in _OFFERS}
    parts = [config_hash(data), *([arm] if arm in (GROMO, SWEEP) else [])]
    if arm == SCRATCH:
        parts.append(arm_hash(task, ESPER, policy))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def arms_of(task: Task) -> list[str]:
    """The arms that a task has."""
    missing = set()
    if task.equal is None:
        missing.add(STATIC_EQUAL)
    if task.max_param_epochs is None:
        missing.add(GROMO)
    return [arm for arm in ARMS if arm not in missing]


def _caps(task: Task, params: int, flops: int | None) -> list[str]:
    lines = [_params_cap(task, params)]
    if flops is not None:
        lines.append(f"morphogenetic.max_flops_ratio={(flops + 0.5) / task.host_flops}")
    return lines


def _params_cap(task: Task, params: int) -> str:
    # half of one more, so that rounding down gives the cap itself
    return f"morphogenetic.max_params_ratio={(params + 0.5) / task.host_params}"


def _hydra(value: object) -> str:
    """A value as Hydra's override grammar writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_hydra(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_hydra(each) for each in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
