"""Small real hosts of every kind that can bear seeds, and short ways to grow them."""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.config import SeedConfig
from esper.kasmina import MorphableModel, SeedManager, SeedRecord, TrainingPosition, get_blueprint, wrap
from esper.leyline import AdaptationCommand, CommandKind, Impact, SeedStage
from esper.models import build

BLUEPRINTS = (
    *("mlp", "low_rank", "conv_light", "conv_heavy", "depthwise"),
    *("squeeze_excite", "attention", "norm", "no_op", "noise"),
)
HELPFUL = Impact(loss_gain=0.1, loss_gain_error=0.01, accuracy_gain=0.02, samples=100)
_ids = itertools.count()

Pair = namedtuple("Pair", ["features", "extra"])


class InPlace(nn.Module):
    """Activations that overwrite what a site has put out."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.act(self.conv1(x))))
        x = self.act(self.conv2(x))
        return self.fc(self.drop(x.mean((2, 3))))


class Tuples(nn.Module):
    """Layers that return tuples, a list and a named tuple, the main tensor first."""

    class Layer(nn.Module):
        def __init__(self, kind: Callable[[Tensor, Tensor], Any]) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.kind = kind

        def forward(self, x: Tensor, *, scale: float = 1.0) -> Any:
            return self.kind(torch.tanh(self.fc(x)) * scale, x.mean())

    def __init__(self) -> None:
        super().__init__()
        kinds = (lambda a, b: (a, b), lambda a, b: [a, b], Pair)
        self.layers = nn.ModuleList(self.Layer(kind) for kind in kinds)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        x, mean = first(x)
        x, more = second(x=x, scale=0.5)
        answer = third(x)
        return self.head(answer.features + mean + more + answer.extra)


class Twice(nn.Module):
    """One module that is called twice in a forward, and has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.alias = self.shared
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.alias(self.shared(x)))


class Attending(nn.Module):
    """Attention called as a module, whose output is a tuple."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attn = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.head((x + self.attn(y, y, y)[0]).mean(1))


class Encoder(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


class Conv1d(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(3, 6, 3, padding=1),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv1d(6, 4, 3),
        )
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean(2))


@dataclass(frozen=True)
class Case:
    """A host: how it is made (with a dropout, where it has one), the shape of a sample, and its sites."""

    make: Callable[[float], nn.Module]
    shape: tuple[int, ...]
    layers: tuple[str, ...]


HOSTS = {
    "convnet": Case(
        lambda p: build("convnet", num_classes=5, channels=1, image_size=(8, 8), widths=[4, 8]),
        (1, 8, 8),
        ("block1", "block2", "block2.0", "fc"),
    ),
    "mlp": Case(
        lambda p: build("mlp", num_classes=5, channels=1, image_size=(4, 4), hidden=[8, 8], dropout=p),
        (1, 4, 4),
        ("body", "body.fc1", "body.fc2"),
    ),
    "encoder": Case(
        Encoder,
        (5, 8),
        ("encoder.layers.0", "encoder.layers.0.self_attn", "encoder.layers.1.linear1", "encoder", "head"),
    ),
    "attention": Case(Attending, (5, 8), ("attn", "norm", "head")),
    "conv1d": Case(Conv1d, (3, 10), ("body", "body.0", "body.4")),
    "tuples": Case(lambda p: Tuples(), (6,), ("layers.*", "layers.0.fc")),
    "twice": Case(lambda p: Twice(), (6,), ("shared", "shared.0")),
    "in_place": Case(InPlace, (1, 6, 6), ("conv1", "norm", "conv2")),
}


def host(name: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return HOSTS[name].make(dropout)


def batch(name: str, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(size, *HOSTS[name].shape, generator=torch.Generator().manual_seed(seed))


def targets(size: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(5, (size,), generator=torch.Generator().manual_seed(seed))


def wrapped(name: str, dropout: float = 0.0, **options: Any) -> MorphableModel:
    """The host with dormant slots, its shapes known."""
    model = wrap(host(name, dropout), HOSTS[name].layers, **{"seeds_per_layer": 2} | options)
    model.observe(batch(name))
    return model


def growable(name: str, dropout: float = 0.0, **config: Any) -> tuple[MorphableModel, SeedManager]:
    model = wrapped(name, dropout)
    return model, SeedManager(model, SeedConfig(**config))


def seed_command(kind: CommandKind, layer: str, index: int = 0, **changes: Any) -> AdaptationCommand:
    return AdaptationCommand(f"c{next(_ids)}", kind, 1.0, 1.0, "as the test wants", layer, index, **changes)


def germinate(
    layer: str, blueprint: str, placement: str = "series", index: int = 0, **options: Any
) -> AdaptationCommand:
    return seed_command(
        CommandKind.GERMINATE, layer, index, blueprint=blueprint, placement=placement, options=options
    )


def cull(layer: str, index: int = 0) -> AdaptationCommand:
    return seed_command(CommandKind.CULL, layer, index)


def fossilize(layer: str, index: int = 0) -> AdaptationCommand:
    return seed_command(CommandKind.FOSSILIZE, layer, index)


def fitting(model: MorphableModel) -> Iterator[tuple[str, str, str]]:
    """(layer, placement, blueprint) for everything that may be germinated."""
    for layer, placement in itertools.product(model.sites, ("series", "parallel")):
        shape = model.site_shape(layer, placement)
        for blueprint in BLUEPRINTS:
            if shape.in_shape and get_blueprint(blueprint).unsupported(shape) is None:
                yield layer, placement, blueprint


def stir(module: nn.Module, seed: int = 3) -> None:
    """Weights as if the seeds had learnt: none is zero any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def fossil(manager: SeedManager, command: AdaptationCommand) -> SeedRecord:
    """Plant a seed and bring it to its last stage at once, with weights that do something."""
    manager.config.isolation_steps = manager.config.blend_steps = 0
    manager.apply(command, TrainingPosition(0, 0))
    record = manager.model.record(command.layer, command.seed_index)
    stir(manager.model.seed_module(record))
    record.impact = HELPFUL
    manager.apply(fossilize(record.layer, record.index), TrainingPosition(0, 0))
    assert record.stage is SeedStage.FOSSILIZED
    return record


def bits(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, copied."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )
