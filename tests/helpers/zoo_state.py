"""Hosts with unusual tensors, state, inputs and outputs; see `zoo_layers`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from helpers.zoo_layers import CLASSES, WIDTH, Plain
from torch import Tensor, nn

# -- inputs and outputs --------------------------------------------------------------------------


class TwoInputs(Plain):
    def forward(self, x: Tensor, other: Tensor, *, scale: float = 1.0) -> Tensor:  # type: ignore[override]
        return super().forward(scale * x + other)


class DictInput(Plain):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["x"])


class DictOutput(Plain):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"scores": super().forward(x), "input": x}


class TupleOutput(Plain):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


@dataclass
class Answer:
    scores: Tensor
    input: Tensor


class DataclassOutput(Plain):
    def forward(self, x: Tensor) -> Answer:  # type: ignore[override]
        return Answer(super().forward(x), x)


# -- parameters ----------------------------------------------------------------------------------


def frozen() -> nn.Module:
    return Plain().requires_grad_(False)


def partly_frozen() -> nn.Module:
    host = Plain()
    host.body.requires_grad_(False)
    return host


class Thawing(Plain):
    """A layer that is frozen until the third training forward; it is optimised from the next epoch on."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body.requires_grad_(False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            if self.calls == 3:
                self.body.requires_grad_(True)
        return super().forward(x)


class Parameterless(nn.Module):
    """A fixed function: only seeds can learn in it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[:, :CLASSES]


class Complex(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.randn(WIDTH, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.ifft(torch.fft.fft(self.body(self.inp(x))) * self.turn).real.relu())


class Double(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class MixedTypes(Plain):
    """A layer in bfloat16 between two in float32."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(torch.tanh(self.inp(x)).bfloat16()).float().relu())


class IntegerWeights(Plain):
    """A quantised weight: integers that are a parameter and are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randint(-3, 4, (WIDTH, WIDTH)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ (self.codes.float() / 3))


# -- buffers and extra state ---------------------------------------------------------------------


class ExtraState(Plain):
    """Extra state of every kind that JSON and tensors can hold; it changes in training."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Any = {"calls": 0, "names": ("a", None), 3: [1.5, float("inf")], "mean": torch.zeros(2)}

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            calls = self.state["calls"] + 1
            self.state |= {"calls": calls, "mean": x.detach().mean(0)[:2], "raw": bytes([calls % 256])}
            self.state["ordered"] = OrderedDict(last={calls}, empty=())
        return super().forward(x) + 0.001 * self.state["calls"]

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


class GrowingBuffer(Plain):
    """A memory that gets longer with every training batch, up to a limit."""

    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(0, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.memory = torch.cat([self.memory, x.detach()])[:100]
        return super().forward(x - self.memory.sum(0) / 100)


class LateBuffers(Plain):
    """Buffers that are None at first, become None, are registered late, deleted, or change their dtype."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", None)
        self.register_buffer("first", torch.ones(2))
        self.register_buffer("gone", torch.ones(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = x.detach().mean(0)
            self.first = None
            self.count = self.count.double() + 0.5
            self._buffers.pop("gone", None)
            if "late" not in self._buffers:
                self.register_buffer("late", torch.zeros(WIDTH))
            self.late.add_(self.mean)
        shift = 0 if self.mean is None else 0.01 * self.mean
        return super().forward(x - shift) + 0.001 * self.count


class Transient(Plain):
    """A buffer that is not saved: a table that is created again if it is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(0, 1, WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.table = torch.linspace(0, 1, WIDTH).to(x)
        return super().forward(x + self.table)


class Counting(Plain):
    """A buffer that counts every training forward and shifts the output with it."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # in evaluation, too
        return super().forward(x) + 1e-3 * self.calls.clamp(max=1)


class Slotted(nn.Linear):
    """A class with __slots__, which torch leaves out of a module's copy."""

    __slots__ = ("factor",)

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.factor = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)


def slotted() -> nn.Module:
    return Plain(Slotted())


# -- what has to be refused ----------------------------------------------------------------------


class Locked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.lock = threading.Lock()


class OneWay(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)

    def get_extra_state(self) -> Any:
        return {"a": 1}


class Opaque(OneWay):
    def get_extra_state(self) -> Any:
        return {"lock": threading.Event}

    def set_extra_state(self, state: Any) -> None: ...


class MadeInForward(nn.Module):
    """Makes its layer when it is first called."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.Linear(WIDTH, WIDTH)
        return self.late(x)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 5)


class LazyUnused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.LazyLinear(WIDTH)
