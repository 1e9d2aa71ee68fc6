"""Completion of keys, groups, values and flags; the words that a real bash is offered."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esper.cli.completion import complete, shell_completion
from esper.cli.composer import Composer
from esper.cli.flags import Flags
from esper.cli.overrides import override_problems
from esper.errors import ConfigError

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("optimi", ["optimization.", "optimization="]),
        ("optimization.lear", ["optimization.learning_rate="]),
        ("optimization.sched", ["optimization.scheduler=", "optimization.scheduler_params."]),
        (
            "morphogenetic.seed.blend_s",
            ["morphogenetic.seed.blend_schedule=", "morphogenetic.seed.blend_steps="],
        ),
        ("seed", ["seed="]),
        ("morph", ["morphogenetic.", "morphogenetic/policy=", "morphogenetic="]),
        ("model=res", ["model=resnet18", "model=resnet34"]),
        ("--multirun model=convnet,v", ["model=convnet,vit"]),
        ("+exp", ["+experiment="]),
        ("+experiment=", ["+experiment=strict"]),
        ("+mod", ["+model."]),
        ("++seed", ["++seed="]),
        ("~mod", ["~model"]),
        (
            "optimization.optimizer=ada",
            [f"optimization.optimizer=ada{x}" for x in ("delta", "grad", "m", "max", "mw")],
        ),
        ("dataset.download=", ["dataset.download=false", "dataset.download=true"]),
        ("dataset.batch_size=", ["dataset.batch_size=32"]),
        ("model=resnet18 model.archi", ["model.architecture="]),
        ("model=mlp model.architecture=re", ["model.architecture=resnet18", "model.architecture=resnet34"]),
        ("optimi optimization.lear", ["optimization.learning_rate="]),
        ("typo=1 seed=x optimization.lear", ["optimization.learning_rate="]),
        ("'session_name=a b' optimization.lear", ["optimization.learning_rate="]),
        ("session_name='a b", []),
        ("hydra.sweep.s", ["hydra.sweep.subdir="]),
        ("hydra/launcher=b", ["hydra/launcher=basic"]),
        ("--multi", ["--multirun"]),
        ("--cfg ", ["all", "hydra", "job"]),
        ("-c j", ["job"]),
        ("--info def", ["defaults", "defaults-tree"]),
        ("--cfg job --package optimization.lear", ["optimization.learning_rate="]),
        ("--shell-completion ins", ["install=bash", "install=fish", "install=zsh"]),
        ("--config-dir ", []),
        ("run_dir=", []),
        ("frobnicate", []),
    ],
)
def test_the_words_that_are_offered(line: str, words: list[str]) -> None:
    assert complete(f"esper-train {line}") == sorted(words)


def test_nothing_that_is_offered_is_refused() -> None:
    """Of the first choices of every group, and of every option that has choices."""
    groups = [word for name in ("experiment", "debug", "model", "logging") for word in complete(f"e {name}=")]
    keys = ("mixed_precision", "device", "optimization.scheduler")
    options = [word for key in keys for word in complete(f"e {key}=")]
    assert len(groups) == 13 and len(options) == 12
    composer = Composer(Flags())
    assert override_problems([*groups, *options], composer.groups(()), composer.parser) == []


def test_a_file_of_the_users_own_is_completed_with_its_values(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("dataset: {batch_size: 77}\n")
    assert complete(f"esper-train --config-dir {tmp_path} --config-name ") == ["mine"]
    line = f"esper-train --config-dir {tmp_path} --config-name mine dataset.batch_s"
    assert complete(line) == ["dataset.batch_size="]
    assert complete(f"{line}ize=") == ["dataset.batch_size=77"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_its_scripts(shell: str) -> None:
    assert "--shell-completion query=" in shell_completion([f"install={shell}"])
    assert "esper_train_complete" in shell_completion([f"uninstall={shell}"])


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ([], "install=bash"),
        (["install"], "install=bash"),
        (["install=bsh"], "install=bash"),
        (["bash"], "install=bash"),
    ],
)
def test_other_words_are_one_sentence(words: list[str], near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shell_completion(words)
    [text] = caught.value.problems
    assert text.startswith("--shell-completion: given ") and text.endswith(f"; nearest: {near}")


class Bash:
    """An interactive bash on a terminal of its own, with completion installed."""

    def __init__(self, folder: Path) -> None:
        pid, self.terminal = pty.fork()
        if pid == 0:
            path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
            variables = {**os.environ, "PATH": path, "PS1": "> ", "TERM": "dumb", "INPUTRC": os.devnull}
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], variables)
        self.pid = pid
        self.line("bind 'set show-all-if-ambiguous on'; bind 'set bell-style none'")
        self.line('eval "$(esper-train --shell-completion install=bash)"')

    def complete(self, text: str) -> tuple[str, list[str]]:
        """The line after a press of the tab key, and the words that were listed."""
        os.write(self.terminal, f"{text}\t\x01echo :\r".encode())
        listed, _, line = self._until("\n:").rpartition("\n:")
        shown = [
            row for row in listed.splitlines() if ">" not in row and text not in row and "echo :" not in row
        ]
        return line.strip(), sorted(word for row in shown for word in row.split())

    def line(self, text: str) -> None:
        os.write(self.terminal, f"{text}; echo :done\r".encode())
        self._until("\n:done")

    def _until(self, mark: str) -> str:
        text, end = "", time.monotonic() + 60
        while mark not in text or not text.partition(mark)[2].partition("\n")[1]:
            assert time.monotonic() < end, text
            if select.select([self.terminal], [], [], 1.0)[0]:
                text += os.read(self.terminal, 65536).decode().replace("\r", "")
        return text.partition(mark)[0] + mark + text.partition(mark)[2].partition("\n")[0]

    def close(self) -> None:
        os.write(self.terminal, b"exit\r")
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def test_a_real_bash_completes_the_line(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    bash = Bash(tmp_path)
    try:
        assert bash.complete("esper-train optimization.lear")[0] == "esper-train optimization.learning_rate="
        assert bash.complete("esper-train optimi") == (
            "esper-train optimization",
            ["optimization.", "optimization="],
        )
        assert bash.complete("esper-train model=res") == (
            "esper-train model=resnet",
            ["resnet18", "resnet34"],
        )
        assert bash.complete("esper-train seed=1 +experiment=") == (
            "esper-train seed=1 +experiment=strict",
            [],
        )
        line, listed = bash.complete("esper-train dataset.")
        assert line == "esper-train dataset."
        assert len(listed) == 14 and {"dataset.batch_size=", "dataset.augmentation_params."} <= set(listed)
        assert bash.complete("esper-train run_dir=out") == ("esper-train run_dir=outputs/", [])
        bash.line('eval "$(esper-train -sc uninstall=bash)"')
        assert bash.complete("esper-train optimization.lear") == ("esper-train optimization.lear", [])
    finally:
        bash.close()


def test_a_query_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['esper-train', '-sc', 'query=bash']; from esper.train import main; main();"
        "print('loaded:', 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env={**os.environ, "COMP_LINE": "esper-train model=mlp optimization.lear"},
    )
    assert done.stdout.split("\n")[:2] == ["optimization.learning_rate=", "loaded: False False"]
    assert list(tmp_path.iterdir()) == []
