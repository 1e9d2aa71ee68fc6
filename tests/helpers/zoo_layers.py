"""Hosts built of unusual layers; each takes x (batch, 8) and gives scores (batch, 3) unless it says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

WIDTH, CLASSES = 8, 3


class Plain(nn.Module):
    """A layer `body` between two others; subclasses put another one in its place."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        self.inp = nn.Linear(WIDTH, WIDTH)
        self.body = nn.Linear(WIDTH, WIDTH) if body is None else body
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(torch.tanh(self.inp(x)))))


def parametrized(kind: str) -> Callable[[], nn.Module]:
    """A host with a layer under one of torch's parametrisations."""
    return lambda: Plain(getattr(parametrizations, kind)(nn.Linear(WIDTH, WIDTH)))


def reparametrized(kind: str) -> Callable[[], nn.Module]:
    """The same in torch's old style: a computed weight kept as an attribute, and a hook."""

    def make() -> nn.Module:
        with warnings.catch_warnings(action="ignore"):
            return Plain(getattr(nn.utils, kind)(nn.Linear(WIDTH, WIDTH)))

    return make


class Tied(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.body.weight = self.inp.weight


class Shared(Plain):
    """One module, called twice and under two names."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()))
        self.alias = self.body

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.alias(self.body(self.inp(x))))


class Unused(Plain):
    """A layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(WIDTH, WIDTH)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LazyLinear(WIDTH), nn.LazyBatchNorm1d(), nn.ReLU())
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class LazyConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.LazyConv1d(4, 3, padding=1)
        self.head = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.unsqueeze(1)).relu().flatten(1))


def _script_free(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and in use
        return make()


def scripted() -> nn.Module:
    return Plain(_script_free(lambda: torch.jit.script(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()))))


def traced() -> nn.Module:
    return Plain(_script_free(lambda: torch.jit.trace(nn.Linear(WIDTH, WIDTH), torch.zeros(2, WIDTH))))


def scripted_whole() -> nn.Module:
    return _script_free(lambda: torch.jit.script(Plain()))


class Recurrent(nn.Module):
    """A recurrent layer, whose output is a tuple."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.body = kind(2, 6, batch_first=True, **options)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        self.body.flatten_parameters()
        return self.head(self.body(x.view(-1, 4, 2))[0][:, -1])


class TimeFirst(nn.Module):
    """A recurrent layer with the batch on the second axis, where a seed must not be put."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.rnn(x.view(-1, 4, 2).transpose(0, 1))[0][-1]).relu())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.MultiheadAttention(2, 1, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = x.view(-1, 4, 2)
        return self.head((y + self.body(y, y, y)[0]).flatten(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.view(-1, 2, 4)).flatten(1))


class Checkpointed(Plain):
    """The body is computed again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inp(x))
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant).tanh())


class InPlace(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.act(self.norm(self.body(self.act(self.inp(x)))))))


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Conv2d(2, 4, 1)
        self.body = nn.Sequential(
            nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.BatchNorm2d(4)
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(self.inp(x.view(-1, 2, 2, 2))).flatten(1)).relu())


class FrozenNorm(InPlace):
    """Batch norm that stays in eval mode whatever mode the model is put in."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self


class Embeddings(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(2, 4, sparse=sparse)
        self.bag = nn.EmbeddingBag(2, 4, mode="sum", sparse=sparse)
        self.body = nn.Linear(36, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x > 0).long()
        both = torch.cat([self.words(ids).flatten(1), self.bag(ids)], 1)
        return self.head(self.body(both).relu())


class Convolutions(nn.Module):
    """Convolutions in one, two and three dimensions, a transposed one, and a shuffle of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(1, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.body = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.shuffle = nn.PixelShuffle(2)
        self.cube = nn.Conv3d(1, 1, 1)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.up(self.line(x.unsqueeze(1)).view(-1, 4, 2, 2)))
        return self.head(self.cube(self.shuffle(x).unsqueeze(1)).flatten(1))


class Nested(nn.Module):
    """Containers in containers, and parameters in lists and dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"a/b": nn.ModuleList([nn.Linear(WIDTH, WIDTH)]), "run": nn.Identity()})
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(WIDTH)) for _ in range(2)])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(WIDTH))})
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = self.inner["a/b"][0](x * scale) + self.named["shift"]
        return self.head(self.inner["run"](x).relu())


def deep() -> nn.Module:
    """A layer under forty names."""
    inner: nn.Module = nn.Linear(WIDTH, WIDTH)
    for _ in range(40):
        inner = nn.Sequential(inner)
    return Plain(inner)


class Functional(nn.Module):
    """Parameters without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(WIDTH, WIDTH) / 3)
        self.second = nn.Parameter(torch.randn(CLASSES, WIDTH) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.first)), self.second)


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


class OwnFunction(Plain):
    """An autograd function of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_Cube.apply(torch.tanh(self.body(self.inp(x)))))


class Hooked(Plain):
    """Hooks of the user's: one changes an output, one remembers the activation it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor | None = None
        self.body.register_forward_hook(self._keep)
        self.inp.register_forward_hook(lambda module, args, output: 2 * output)

    def _keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen = output


class Remembering(Plain):
    """Keeps tensors that it has computed, in an attribute and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None
        self.trail: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.tanh(self.inp(x))
        self.trail = [self.last, self.body(self.last)]
        return self.head(self.trail[1].relu())
