"""Every example runs, in a folder of its own, and does what it says; so do the command lines beside them.

The scripts are forks of a process that has imported everything.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers.command import Done, esper_train, events_of, metrics_of, python_script, summary_of
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run(name: str, folder: Path) -> tuple[list[str], list[Path]]:
    """Run an example to its end; what it printed, and the folders of its runs, oldest first."""
    done = python_script(EXAMPLES / name, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), sorted(folder.glob("outputs/*/*"))


def command_line(script: Path) -> list[str]:
    """The arguments of the `esper-train` command in an example's docstring."""
    found = re.search(r"esper-train ((?:.*\\\n)*.*)", script.read_text().partition('"""\n\n')[0])
    assert found is not None
    return shlex.split(found[1].replace("\\\n", " "))


def test_a_model_of_ones_own_grows(tmp_path: Path) -> None:
    printed, [folder] = run("custom_model.py", tmp_path)
    assert "epoch 5: 410 parameters" in printed
    assert "parameters 114 -> 410" in printed
    summary = summary_of(folder)
    assert (summary["params_host"], summary["epochs_run"]) == (3 * 8 + 9 * 8 + 9 * 2, 10)
    assert summary["test_accuracy"] > 0.7


def test_a_dataset_by_object_and_by_name_gives_the_same_run(tmp_path: Path) -> None:
    printed, folders = run("custom_dataset.py", tmp_path)
    by_object, by_name = folders
    assert metrics_of(by_object) == metrics_of(by_name)
    accuracy = summary_of(by_object)["test_accuracy"]
    assert accuracy > 0.8
    assert [line for line in printed if line.startswith("by ")] == [
        f"by object: test accuracy {accuracy:.3f}",
        f"by name: test accuracy {accuracy:.3f}",
    ]


def test_a_blueprint_of_ones_own_is_grown(tmp_path: Path) -> None:
    printed, [folder] = run("custom_blueprint.py", tmp_path)
    seeds = summary_of(folder)["seeds"]
    assert seeds and {seed["blueprint"] for seed in seeds} == {"gated"}
    assert {seed["options"]["hidden"] for seed in seeds} <= {4, 8, 16}
    assert [line for line in printed if " gated: " in line and "epoch" not in line] == [
        f"{seed['layer']}[0] gated: {seed['stage']}" for seed in seeds
    ]


def test_a_policy_of_ones_own_decides(tmp_path: Path) -> None:
    _, [folder] = run("custom_policy.py", tmp_path)
    decided = events_of(folder, "adaptation_applied")
    assert decided[0]["kind"] == "germinate"
    assert decided[0]["reason"] == "the validation loss fell by less than 20%"
    losses = [row["val_loss"] for row in metrics_of(folder)]
    plateau = next(n for n in range(1, len(losses)) if losses[n] >= 0.8 * losses[n - 1])
    assert summary_of(folder)["seeds"][0]["germinated_epoch"] == plateau + 1


def test_a_callback_stops_and_counts_across_a_resume(tmp_path: Path) -> None:
    printed, folders = run("custom_callback.py", tmp_path)
    first, resumed = folders
    assert [row["val_accuracy"] >= 0.8 for row in metrics_of(first)] == [False, True, True]
    counts = [line for line in printed if ": reached" in line]
    assert counts == [f"epoch {n}: reached {count} of 3" for n, count in enumerate((0, 1, 2, 3), 1)]
    assert printed[-1] == "stopped after 4 epochs: accuracy 0.8 reached"
    assert [row["epoch"] for row in metrics_of(resumed)] == [4]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_command_line_beside_an_example_is_accepted(script: Path, tmp_path: Path) -> None:
    done = accepted(command_line(script), tmp_path)
    assert done.returncode == 0, done.stderr


def accepted(arguments: list[str], folder: Path) -> Done:
    """The command in a folder of its own, up to one batch forward and backward."""
    return esper_train(*arguments, "dry_run=true", cwd=folder, environment={"PYTHONPATH": str(EXAMPLES)})


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 5 s of CPU: the kernel is a new interpreter, which imports torch."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # else below the home folder
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook: Any = nbformat.read(EXAMPLES / "growth.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    # one output a cell, though the kernel sends what is printed in parts
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=resources, coalesce_streams=True
    )
    client.execute()
    [folder] = tmp_path.glob("outputs/*/*")
    rows = metrics_of(folder)
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    history, plot, model = (cell.outputs[0] for cell in code[-3:])
    expected = [
        f"{row['epoch']}  loss {row['val_loss']:.3f}  accuracy {row['val_accuracy']:.3f}  "
        f"{row['params']} parameters"
        for row in rows
    ]
    assert history.text.splitlines() == expected
    assert "image/png" in plot.data
    assert model.text.splitlines()[-1] == "the same output: True"
    assert summary_of(folder)["seeds"]
