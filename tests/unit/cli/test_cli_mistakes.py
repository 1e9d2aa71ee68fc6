"""What a new user types: each mistake is one sentence with the word that can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from helpers.command import esper_train

from esper.cli.composer import Composer
from esper.cli.flags import Flags, parse_flags
from esper.cli.overrides import override_problems
from esper.cli.plan import make_plan
from esper.errors import ConfigError

COMPOSER = Composer(Flags())
GROUPS = COMPOSER.groups(())

# A command line, the key that its sentence begins with, and the word that can be pasted.
MISTAKES = [
    # flags of other programs
    ("--lr 0.1", "--lr", "optimization.learning_rate=0.1"),
    ("-lr 0.1", "-lr", "optimization.learning_rate=0.1"),
    ("--epochs=3", "--epochs", "optimization.max_epochs=3"),
    ("--batch-size 4", "--batch-size", "dataset.batch_size=4"),
    ("-b 4", "-b", "dataset.batch_size=4"),
    ("--no-amp", "--no-amp", "mixed_precision=false"),
    ("--fp16", "--fp16", "mixed_precision=fp16"),
    ("--seed 3", "--seed", "seed=3"),
    ("--model resnet18", "--model", "model=resnet18"),
    ("--arch resnet18 model.seeds_per_layer=2", "--arch", "model=resnet18"),
    ("--dataset cifar10", "--dataset", "dataset=cifar10"),
    ("--optimization.max_epochs=5", "--optimization.max_epochs", "optimization.max_epochs=5"),
    ("-momentum=0.9", "-momentum", "optimization.momentum=0.9"),
    ("-pretrained", "-pretrained", "model.pretrained"),
    ("--config conf/run.yaml", "--config", "--config-dir conf --config-name run"),
    ("--multirn seed=1,2", "--multirn", "--multirun"),
    # words without a =
    ("help", "help", "--help"),
    ("version", "version", "--version"),
    ("eval", "eval", "mode=test checkpoint.resume_from_checkpoint=<run folder>"),
    ("resume", "resume", "run_dir=<run folder> checkpoint.resume_from_checkpoint=auto"),
    ("model.resnet18", "model.resnet18", "model=resnet18"),
    ("model:resnet18", "model:resnet18", "model=resnet18"),
    ("resnet18", "resnet18", "model=resnet18"),
    ("digits", "digits", "dataset=digits"),
    ("model", "model", "model=<option>"),
    ("seed", "seed", "seed=<value>"),
    ("compile_model", "compile_model", "compile_model=true"),
    ("run.yaml", "run.yaml", "--config-dir . --config-name run"),
    ("lr 0.1", "lr", "optimization.learning_rate=0.1"),
    ("lr = 0.1", "lr", "optimization.learning_rate=0.1"),
    ("lr= 0.1", "lr", "optimization.learning_rate=0.1"),
    ("lr =0.1", "lr", "optimization.learning_rate=0.1"),
    ("lr:0.1", "lr:0.1", "optimization.learning_rate=0.1"),
    ("'seed = 3'", "seed", "seed=3"),
    ("optimization.max_epoch 5", "optimization.max_epoch", "optimization.max_epochs=5"),
    # quoting
    ("session_name=my first run", "session_name", "'session_name=my first run'"),
    ("model.target_layers=[block1, block2]", "model.target_layers", "'model.target_layers=[block1, block2]'"),
    ("model.target_layers=block1,block2", "model.target_layers", "'model.target_layers=[block1,block2]'"),
    ("model.target_layers=block1", "model.target_layers", "'model.target_layers=[block1]'"),
    # groups and their choices
    ("model=ResNet18", "model", "resnet18"),
    ("dataset=CIFAR10", "dataset", "cifar10"),
    ("dataset=fashion-mnist", "dataset", "fashion_mnist"),
    ("modle=resnet18", "modle", "model=resnet18"),
    ("MODEL=resnet18", "MODEL", "model=resnet18"),
    ("optimizer=adamw", "optimizer", "optimization.optimizer=adamw"),
    ("optimization=adamw", "optimization", "optimization.optimizer=adamw"),
    ("trainer=gpu", "trainer", "device=cuda"),
    ("debug=fdr", "debug", "debug=few_batches"),
    ("policy=random", "policy", "morphogenetic/policy=random"),
    ("experiment=null", "experiment", "~experiment"),
    ("+model=mlp", "model", "model"),
    ("++model=mlp", "model", "model"),
    # keys
    ("Optimization.Max-Epochs=3", "Optimization.Max-Epochs", "optimization.max_epochs=3"),
    ("batchSize=4", "batchSize", "dataset.batch_size=4"),
    ("optimization/learning_rate=0.1", "optimization/learning_rate", "optimization.learning_rate"),
    ("--multirun lr=0.1,0.2", "lr", "optimization.learning_rate=0.1,0.2"),
    ("model.dropout=0.1", "model.dropout", "model.model_params.dropout=0.1"),
    ("arch=resnet18", "arch", "model=resnet18"),
    ("dataset_name=mnist", "dataset_name", "dataset=mnist"),
    (
        "optimizer={lr:0.1,weight_decay:0}",
        "optimizer",
        "optimization.learning_rate=0.1 optimization.weight_decay=0",
    ),
    # values
    ("optimization.max_epochs=1e2", "optimization.max_epochs", "100"),
    ("device=gpu", "device", "cuda"),
    ("mixed_precision=16", "mixed_precision", "fp16"),
    ("mixed_precision=bf16-mixed", "mixed_precision", "bf16"),
    ("optimization.optimizer=AdamW", "optimization.optimizer", "adamw"),
    ("optimization.scheduler=CosineAnnealingLR", "optimization.scheduler", "cosine"),
    ("optimization.loss_function=ce", "optimization.loss_function", "cross_entropy"),
    ("logging.log_level=info", "logging.log_level", "INFO"),
]


def problems(line: str) -> list[str]:
    """What is wrong with a line by its words, its schema and its ranges; nothing of the machine is asked."""
    try:
        flags = parse_flags(shlex.split(line))
        found = override_problems(flags.overrides, GROUPS, COMPOSER.parser)
        if found:  # nothing is composed for these
            return found
        plan = make_plan(flags)
    except ConfigError as error:
        return error.problems
    return plan.collect(lambda job: job.problems or job.config.validate())


@pytest.mark.parametrize(("line", "key", "word"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_one_sentence_with_the_right_word(line: str, key: str, word: str) -> None:
    [text] = problems(line)
    assert text.startswith(f"{key}: given ")
    assert text.endswith(f"; nearest: {word}")


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ("train", "train", "expected nothing: the command trains when no word says otherwise"),
        ("--num-nodes 2", "--num-nodes", "Esper trains in one process on one device"),
        ("trainer=ddp", "trainer", "Esper trains in one process on one device"),
        ("-e 3", "-e", "expected an option as key=value, without dashes"),
        (".lr=3", ".lr=3", "expected key=value"),
    ],
)
def test_without_a_near_word_none_is_made_up(line: str, key: str, message: str) -> None:
    [text] = problems(line)
    assert text.startswith(f"{key}: given ") and message in text
    assert "nearest" not in text and "Exception" not in text


def test_every_flag_is_a_sentence_of_its_own() -> None:
    found = problems("--epochs 3 --batch-size 4 --arch resnet18")
    words = [text.partition("; nearest: ")[2] for text in found]
    assert words == ["optimization.max_epochs=3", "dataset.batch_size=4", "model=resnet18"]


@pytest.mark.parametrize("line", ["+experiment=strict", "experiment=strict"])
def test_a_group_without_a_choice_may_be_added_in_the_way_of_hydra(line: str) -> None:
    [job] = make_plan(parse_flags([line])).jobs
    assert job.config.morphogenetic.urgency_threshold == 0.6
    assert job.config.morphogenetic.max_adaptations_per_epoch == 3


def test_a_group_that_a_file_does_not_name_can_be_added(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [esper_schema, _self_]\noptimization: {max_epochs: 3}\n")
    flags = parse_flags(["--config-dir", str(tmp_path), "--config-name", "mine", "+experiment=strict"])
    [job] = make_plan(flags).jobs
    assert (job.config.optimization.max_epochs, job.config.morphogenetic.urgency_threshold) == (3, 0.6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lr 0.1", "--lr: given '--lr 0.1'"),
        ("train", "train: given 'train'"),
        ("lr=0.1", "learning_rate=0.1"),
    ],
)
def test_the_command_refuses_with_exit_code_2(line: str, message: str, tmp_path: Path) -> None:
    done = esper_train(*shlex.split(line), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    head, text = done.stderr.splitlines()
    assert head == "esper-train: 1 problem in the configuration" and message in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--info", "Installed Hydra Plugins"),
        ("--info defaults-tree --multirun seed=1,2", "dataset: digits"),
        ("--cfg job -p optimization", "# @package optimization"),
        ("--hydra-help optimization.max_epochs=3", "hydra/launcher: basic"),
        ("--help --multirun seed=1,2", "dataset: "),
        ("--shell-completion install=bash", "complete -o nospace"),
        ("-sc uninstall=bash", "unset -f _esper_train_complete"),
        ("--version", "esper "),
    ],
)
def test_the_command_shows_it_and_makes_no_folder(line: str, message: str, tmp_path: Path) -> None:
    done = esper_train(*shlex.split(line), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert message in done.stdout
    assert list(tmp_path.iterdir()) == []
