"""The tasks: what every arm of one shares, its static sizes, its caps, and the plan of a competent user."""

from __future__ import annotations

from dataclasses import dataclass

# What a growth arm plants in the plan of its task: see esper.tamiyo.scheduled.PlannedSeed.
Plan = tuple[dict[str, object], ...]

EVERYWHERE = (
    "device=cpu",
    "trainer.num_threads=1",
    "dataset.download=false",
    "dataset.use_augmentation=false",
    "dataset.validation_split=0.1",
    "optimization.optimizer=adamw",
    "optimization.scheduler=cosine",
    "optimization.early_stopping_patience=0",
    "checkpoint.save_checkpoints=false",
    "checkpoint.save_final_model=false",
    "logging.progress=false",
    "logging.log_level=ERROR",
)

MOST_SEEDS = 4  # at a time and in a swept topology: as many as the shipped policy may have


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the benchmark.

    `shared` are overrides of the shipped configuration that hold for every arm; `small`, `big` and `equal`
    those of the static hosts (`equal`: as many parameter-epochs as growth may use). `max_params` caps what
    is planned and what is swept; `grown_params` caps an arm that chooses its own times, and is smaller
    where `max_param_epochs` would else be broken by growing early. `max_flops` bounds a forward of one
    sample in a sweep, by what static big's costs; `grown_flops` after growth, which has probes to pay for,
    too. `host_params` and `host_flops` are static small's. `time_to` is a validation accuracy to be reached
    soon, where the task asks for one.
    """

    name: str
    summary: str
    shared: tuple[str, ...]
    small: str
    big: str
    equal: str | None
    max_params: int
    grown_params: int
    plan: Plan
    host_params: int
    host_flops: int
    max_param_epochs: float | None = None
    max_flops: int | None = None
    grown_flops: int | None = None
    time_to: float | None = None


def _hidden(*widths: int) -> str:
    return f"+model.model_params={{hidden: {list(widths)}}}"


def _widths(channels: int) -> str:
    return f"+model.model_params={{widths: [{channels}, {2 * channels}, {4 * channels}]}}"


G1 = Task(
    "G1",
    "Fashion-MNIST, MLP 784-16-16-10, 12 epochs",
    (
        "dataset=fashion_mnist",
        "model=mlp",
        "optimization.max_epochs=12",
        "optimization.learning_rate=1e-3",
        "optimization.scheduler_params.warmup_steps=0",
    ),
    small=_hidden(16, 16),
    big=_hidden(64, 64),
    equal=_hidden(52, 52),
    max_params=55_050,
    grown_params=535_000 // 12,  # of every one of the twelve epochs: then any time will do
    max_param_epochs=535_000,
    host_params=13_002,
    host_flops=25_920,
    # a plain graft: in parallel from the pixels to the logits, after the second epoch
    plan=(
        {"layer": "body", "blueprint": "mlp", "placement": "parallel", "at_epoch": 2}
        | {"options": {"hidden": 43, "depth": 2, "norm": True}},
    ),
    time_to=0.87,
)
G2 = Task(
    "G2",
    "Fashion-MNIST, three conv blocks of 8, 16, 32 channels, 6 epochs",
    (
        "dataset=fashion_mnist",
        "model=convnet",
        "optimization.max_epochs=6",
        "optimization.learning_rate=2e-2",  # the shipped recipe's; see README.md for other values
        "optimization.scheduler_params.warmup_steps=500",
    ),
    small=_widths(8),
    big=_widths(16),
    equal=None,
    max_params=24_058,
    grown_params=24_058,
    # plain grafts: residual 3x3 seeds at the second and the third block, after the first epoch
    plan=(
        {"layer": "block2", "blueprint": "conv_heavy", "at_epoch": 1, "options": {"hidden": 16}},
        {"layer": "block3", "blueprint": "conv_heavy", "at_epoch": 1, "options": {"hidden": 20}},
    ),
    host_params=6_274,
    host_flops=1_016_704,
    max_flops=3_839_744,
    grown_flops=3_660_134,
)
G3 = Task(
    "G3",
    "scikit-learn digits, MLP 64-4-4-10, 40 epochs; the seed picks the split",
    (
        "dataset=digits",
        "model=mlp",
        "dataset.test_split=0.3",
        "optimization.max_epochs=40",
    ),
    small=_hidden(4, 4),
    big=_hidden(24, 24),
    equal=None,
    max_params=2_410,
    grown_params=2_410,
    # as in G1, at a tenth of the run
    plan=(
        {"layer": "body", "blueprint": "mlp", "placement": "parallel", "at_epoch": 4}
        | {"options": {"hidden": 20, "depth": 2, "norm": True}},
    ),
    host_params=330,
    host_flops=624,
)
TASKS = {task.name: task for task in (G1, G2, G3)}
