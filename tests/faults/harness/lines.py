"""R17, its part of command lines: malformed ones, written by hand and generated, and how each is answered."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from faults.harness.fault_counts import Budget, FaultCounts

from esper import train
from esper.config import TolariaConfig
from esper.config.serialization import option_names

PLAN = "morphogenetic/policy=scheduled 'morphogenetic.policy.seeds"

# A command line, the key that its one problem begins with, and what the sentence must also say.
MALFORMED = [
    # keys
    ("typo=1", "typo", "nearest: "),
    ("+typo=1", "typo", "nearest: "),
    ("++typo=1", "typo", "nearest: "),
    ("optimization.learning_rat=0.1", "optimization.learning_rat", "nearest: optimization.learning_rate"),
    ("+optimization.learning_rat=0.1", "optimization.learning_rat", "nearest: optimization.learning_rate"),
    ("learning_rate=0.1", "learning_rate", "nearest: optimization.learning_rate"),
    (
        "morphogenetic.seed.blend_step=1",
        "morphogenetic.seed.blend_step",
        "nearest: morphogenetic.seed.blend_steps",
    ),
    ("model={seeds_per_layr:2}", "model.seeds_per_layr", "nearest: model.seeds_per_layer"),
    ("hydra.run.dri=x", "hydra.run.dri", "nearest: hydra.run.dir"),
    ("~optimization.momentum", "optimization.momentum", "cannot be taken away"),
    ("+optimization.momentum=0.8", "optimization.momentum", "without +"),
    # groups
    ("modle=resnet18", "modle", "nearest: model"),
    ("model=resnet19", "model", "nearest: resnet18"),
    ("dataset=cifar11", "dataset", "nearest: cifar10"),
    ("experiment=strct", "experiment", "nearest: strict"),
    ("+model=mlp", "model", "without +"),
    ("debug=overfitt", "debug", "nearest: overfit"),
    ("morphogenetic/policy=heuristc", "morphogenetic/policy", "nearest: heuristic"),
    ("morphogenetic/polcy=heuristic", "morphogenetic/polcy", "nearest: morphogenetic/policy"),
    ("hydra/launcher=jobblib", "hydra/launcher", "nearest: "),
    ("model@foo=convnet", "model@foo", "nearest: model"),
    # grammar and flags
    ("'seed 3'", "seed 3", "expected key=value"),
    ("=3", "=3", "expected key=value"),
    ("optimization.optimizer_params={betas", "optimization.optimizer_params", "a dictionary of plain values"),
    ("seed=1,2", "seed", "--multirun"),
    ("--multirn seed=1,2", "--multirn", "nearest: --multirun"),
    ("--config-name confg", "--config-name", "nearest: config"),
    ("--config-dir /nowhere", "--config-dir", "a folder that exists"),
    ("--experimental-rerun x.pkl", "--experimental-rerun", "never read"),
    ("--cfg job typo=1", "typo", "nearest: "),
    # types
    ("optimization.learning_rate=fast", "optimization.learning_rate", "a number"),
    ("optimization.max_epochs=1.5", "optimization.max_epochs", "a whole number"),
    ("optimization.max_epochs=null", "optimization.max_epochs", "a whole number"),
    ("model.target_layers=layer1", "model.target_layers", "a list of texts"),
    ("dataset.download=perhaps", "dataset.download", "true or false"),
    ("model.model_params=3", "model.model_params", "a dictionary"),
    ("seed=", "seed", "a whole number"),
    ("model.architecture=???", "model.architecture", "given no value"),
    ("optimization.momentum=${foo}", "optimization.momentum", "cannot be resolved"),
    # ranges, names, combinations
    ("optimization.learning_rate=-1", "optimization.learning_rate", "above 0"),
    ("dataset.batch_size=0", "dataset.batch_size", "at least 1"),
    ("morphogenetic.confidence_threshold=1.5", "morphogenetic.confidence_threshold", "at most 1"),
    ("optimization.optimizer=adm", "optimization.optimizer", "nearest: adam"),
    ("optimization.scheduler=cosin", "optimization.scheduler", "nearest: cosine"),
    ("morphogenetic.policy._target_=heuristik", "morphogenetic.policy._target_", "nearest: heuristic"),
    ("checkpoint.model_save_path=model.pt", "checkpoint.model_save_path", ".safetensors"),
    ("services.tamiyo=http", "services.tamiyo", "http is not available in this version"),
    ("profile_training=true", "trainer.profiler_dir", "profile_training"),
    (
        "dataset.validation_split=0.6 dataset.test_split=0.5",
        "dataset.validation_split + dataset.test_split",
        "below 1",
    ),
    # read from the machine
    ("device=cuda:77", "device", "cuda:77"),
    ("model.num_classes=7", "model.num_classes", "null or 10"),
    ("model.target_layers=[layer9]", "model.target_layers", "block1"),
    ("model.pretrained=missing.safetensors", "model.pretrained", "missing.safetensors"),
    ("dataset=mnist dataset.data_root=here dataset.download=false", "mnist", "here"),
    ("dataset=custom", "dataset.name", "a dotted target"),
    ("model=custom", "model.architecture", "a dotted target"),
    ("morphogenetic/policy=custom", "morphogenetic.policy._target_", "a dotted target"),
    ("checkpoint.resume_from_checkpoint=nowhere", "checkpoint.resume_from_checkpoint", "does not exist"),
    ("checkpoint.resume_from_checkpoint=auto", "checkpoint.resume_from_checkpoint", "run_dir="),
    ("morphogenetic.blueprints=[convlite]", "morphogenetic.blueprints", "nearest: conv_light"),
    ("run_dir=/proc/version/run", "run_dir", "is a file"),
    ("+optimization.optimizer_params.beta=[0.1,0.2]", "optimization.optimizer_params.beta", "nearest: betas"),
    ("+optimization.optimizer_params.betas=[2,3]", "optimization.optimizer_params", "Invalid beta"),
    ("+optimization.scheduler_params.gama=0.1", "optimization.scheduler_params.gama", "nearest: "),
    ("+model.model_params.width=[4]", "model.model_params.width", "nearest: widths"),
    (
        "morphogenetic.policy.max_seed=2",
        "morphogenetic.policy.max_seed",
        "nearest: max_seeds",
    ),
    ("logging.metrics_file=metrics.jsonl", "logging.metrics_file", "another name"),
    ("optimization.loss_function=mse", "optimization.loss_function", "class numbers"),
    (
        f"{PLAN}=[{{layer: blok2, blueprint: conv_heavy, at_epoch: 1}}]'",
        "morphogenetic.policy.seeds.layer",
        "nearest: block2",
    ),
    (
        f"{PLAN}=[{{layer: block2, blueprint: conv_heavi, at_epoch: 1}}]'",
        "morphogenetic.policy.seeds.blueprint",
        "nearest: conv_heavy",
    ),
    ("+morphogenetic.policy.max_seed=2", "morphogenetic.policy.max_seed", "nearest: max_seeds"),
    # targets
    ("optimization.optimizer=os.system", "optimization.optimizer", "allowed_targets"),
    ("optimization.optimizer=esper.train.Path.unlink", "optimization.optimizer", "it is pathlib.Path.unlink"),
    ("morphogenetic.blueprints=[mlp,os.system]", "morphogenetic.blueprints", "allowed_targets"),
    ("optimization.loss_function=builtins.open", "optimization.loss_function", "allowed_targets"),
    ("model.architecture=torch.hub.load", "model.architecture", "allowed_targets"),
    ("model.architecture=functools.partial", "model.architecture", "allowed_targets"),
    ("optimization.optimizer=torch.optim.Adamm", "optimization.optimizer", "nearest: Adam"),
    ("+model.model_params.x._target_=os.system", "model.model_params.x._target_", "allowed_targets"),
    (
        "+optimization.loss_params={weight:[{_target_:builtins.open,file:x}]}",
        "optimization.loss_params.weight[0]._target_",
        "allowed_targets",
    ),
    (
        "+optimization.optimizer_params._target_=torch.optim.SGD",
        "optimization.optimizer_params._target_",
        "plain",
    ),
    ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_", "hydra_plugins"),
    ("hydra.launcher._target_=os.system", "hydra.launcher._target_", "hydra_plugins"),
    ("hydra.sweeper._target_=subprocess.run", "hydra.sweeper._target_", "hydra_plugins"),
    ("+hydra.job_logging.handlers.x.class=os.system", "hydra.job_logging.handlers.x.class", "logging"),
    # sweeps
    (
        "-m morphogenetic.confidence_threshold=0.5,1.7,0.9",
        "job 1 (morphogenetic.confidence_threshold=1.7): morphogenetic.confidence_threshold",
        "at most 1",
    ),
    ("-m model=convnet,resnet19", "model", "nearest: resnet18"),
    ("-m seed=1,x", "seed", "a whole number"),
    ("-m seed=1,2 hydra.sweep.dir=a,b", "hydra.sweep.dir", "cannot be swept"),
    ("-m optimization.optimizer=adam,adm", "job 1 (optimization.optimizer=adm)", "nearest: adam"),
]

# What generated values are made of: the grammar's own signs, names it knows, numbers beyond any type's range.
_PIECES = [
    *"()[]{}<>:,=+~'\"\\$@#%&*?!/|`^;. \t\n",
    *("${", "${seed}", "${oc.env:HOME}", "${.}", "???", "_target_", "null", "true", "nan", "-inf", "1e999"),
    *(
        "-1",
        "0",
        "1",
        "0.5",
        "9" * 30,
        "0x1f",
        "1_000",
        "é",
        "日本",
        "\u202e",
        "a",
        "auto",
        "range(1,3)",
        "choice",
    ),
]


@dataclass(frozen=True)
class Answer:
    """What a call of the command printed and returned."""

    code: int
    out: str
    err: str


def wrong_with(answer: Answer, key: str, message: str) -> list[str]:
    """Whether a line with one problem was refused by one block of one sentence that begins with `key`."""
    head, _, text = answer.err.partition("\n")
    demands = {
        f"exit code {answer.code}": answer.code == 2,
        f"printed {answer.out[:80]!r}": not answer.out,
        f"{head!r} is not the head of one problem": head.startswith("esper-train: 1 problem in "),
        "more than one line follows": text.count("\n") == 1,
        f"{text!r} does not begin with {key}": text.startswith(f"  {key}"),
        f"{message!r} is not in {text!r}": message in text,
        "a traceback": "Traceback" not in answer.err,
    }
    return [sentence for sentence, met in demands.items() if not met]


def lines(folder: Path, budget: Budget) -> FaultCounts:
    """R17: all lines written by hand, then generated values of drawn options, in one process."""
    counts = FaultCounts("R17-lines")
    with contextlib.chdir(folder):
        for line, key, message in _lines(budget.draw):
            if not budget.lasts(counts):
                break
            answer = _answer(shlex.split(line))
            wrong = wrong_with(answer, key, message) if message else _wrong_with_generated(answer)
            if left := os.listdir():  # noqa: PTH208 - of the working folder
                wrong.append(f"made {', '.join(left)}")
            counts.note(True, [f"{line}: {sentence}" for sentence in wrong], f"code {answer.code}")
    return counts


def _lines(draw: random.Random) -> Iterator[tuple[str, str, str]]:
    """Lines, the key that their problem is to name, and what it is to say: nothing for generated ones."""
    yield from MALFORMED
    options = list(option_names(TolariaConfig))
    while True:
        value = "".join(draw.choices(_PIECES, k=draw.randint(0, 6)))
        yield f"--cfg job {shlex.quote(f'{draw.choice(options)}={value}')}", "", ""


def _answer(argv: list[str]) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["esper-train", *argv]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = train.main()
        except Exception as error:  # noqa: BLE001 - whatever a line brings about is what is looked for
            return Answer(1, "", f"Traceback: {type(error).__name__}: {error}")
    return Answer(code, out.getvalue(), err.getvalue())


def _wrong_with_generated(answer: Answer) -> list[str]:
    """A generated line is right, and shown, or refused in one block, each problem a sentence with its key."""
    if answer.code == 0:
        return [] if answer.out and not answer.err else [f"code 0, and printed {answer.err[:200]!r}"]
    head, _, text = answer.err.partition("\n")
    demands = {
        f"exit code {answer.code}": answer.code == 2,
        f"printed {answer.out[:80]!r}": not answer.out,
        f"{head!r} is no head of problems": head.startswith("esper-train: ") and " problem" in head,
        f"{text!r} has no sentence with a key": text.startswith("  ") and ": " in text,
        f"a traceback: {answer.err[-200:]}": "Traceback" not in answer.err,
    }
    return [sentence for sentence, met in demands.items() if not met]
