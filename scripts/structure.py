#!/usr/bin/env python3
"""Measures the plan of the package: sizes, imports, names, arguments, and frames from `main` to the model.

`scripts/structure.py` prints a table; with `--root` of another checkout, two trees can be compared.
"""

from __future__ import annotations

import argparse
import ast
import functools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = 7
FAILING_MODEL = """
from torch import nn

class Raises(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(64, num_classes)

    def forward(self, x):
        if self.training and x.shape[0] > 2:
            raise ArithmeticError("here")
        return self.body(x.flatten(1))
"""


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure")
    root = parser.parse_args().root.resolve()
    trees = {module_name(path, root): ast.parse(path.read_text()) for path in sources(root)}
    lines = [len(path.read_text().splitlines()) for path in sources(root)]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if is_function(node)]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    chain = longest_chain(trees)
    measured = {
        "files; lines": f"{len(lines)}; {sum(lines)}",
        "lines of a file, median; most": f"{statistics.median(lines):.0f}; {max(lines)}",
        "lines of a function, median; most": f"{statistics.median(lengths):.0f}; {max(lengths)}",
        "layers of imports": layers(root),
        "files in the longest chain of imports": f"{len(chain)}: {' > '.join(chain)}",
        "public classes and functions of modules": sum(len(public_names(tree)) for tree in trees.values()),
        f"functions of more than {ARGUMENTS} arguments": sum(
            arguments(each) > ARGUMENTS for each in functions
        ),
        "own frames from main to the model": frames(root),
        "files that name the learning rate": sum("learning_rate" in text(tree) for tree in trees.values()),
        "files that start threads": sum("threading.Thread" in text(tree) for tree in trees.values()),
    }
    for what, value in measured.items():
        print(f"{what:42} {value}")


def sources(root: Path) -> list[Path]:
    return sorted((root / "esper").rglob("*.py"))


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def arguments(node: ast.AST) -> int:
    """How many arguments a function takes, without `self`, `cls` and configuration groups."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    kinds = {each.arg: "" if each.annotation is None else ast.unparse(each.annotation) for each in given}
    return len([n for n, kind in kinds.items() if n not in ("self", "cls") and not kind.endswith("Config")])


def text(tree: ast.Module) -> str:
    """The code without its comments."""
    return ast.unparse(tree)


def public_names(tree: ast.Module) -> set[str]:
    """Classes and functions that a module defines and does not mark as its own."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def imported(name: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Modules of the package that one imports when it is loaded: not inside functions, nor for types only."""
    for node in loaded(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                target = submodule if submodule in known else node.module
                if target in known and target != name:
                    yield target


def loaded(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node


def longest_chain(trees: dict[str, ast.Module]) -> list[str]:
    """The longest way from import to import; packages themselves are no link, for they only pass names on."""
    modules = set(trees)
    edges = {name: sorted(set(imported(name, tree, modules))) for name, tree in trees.items()}

    @functools.cache
    def longest(name: str) -> tuple[str, ...]:
        ways = [longest(other) for other in edges[name] if other.startswith("esper.")]
        return (name, *max(ways, key=len, default=()))

    sys.setrecursionlimit(10_000)
    packages = {name for name in modules if any(other.startswith(f"{name}.") for other in modules)}
    for package in packages:
        edges[package] = []
    return list(max((longest(name) for name in modules - packages), key=len))


def layers(root: Path) -> str:
    lines = (root / ".importlinter").read_text().split("layers =")[1].split("exhaustive")[0].splitlines()
    return str(len([line for line in lines if line.strip() and not line.strip().startswith("#")]))


def frames(root: Path) -> str:
    """Counted in the traceback that a model's error ends the real command with."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "raises.py").write_text(FAILING_MODEL)
        options = ["allowed_targets=[raises]", "model=custom", "model.architecture=raises.Raises"]
        done = subprocess.run(
            [root / ".venv/bin/esper-train", *options, "model.target_layers=[body]"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": folder, "PATH": "/usr/bin:/bin", "HOME": folder},
        )
        logs = "".join(path.read_text() for path in Path(folder).rglob("*.log"))
    trace = (done.stderr + logs).split("Traceback (most recent call last)")[-1]
    own = [line for line in trace.splitlines() if line.strip().startswith('File "') and "/esper/" in line]
    return str(len(own)) if "ArithmeticError: here" in trace else f"none: {done.stderr[-300:]}"


if __name__ == "__main__":
    main()
