"""The API pages cover what is exported; each name has its arguments, results, errors and an example."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import esper
from esper import leyline, tamiyo
from esper.config.serialization import ConfigGroup

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
NAMES = [
    name
    for page in PAGES
    for name in re.findall(r"^::: ((?:[a-z_]+\.)+\w+)$", page.read_text(), re.MULTILINE)
    if name != "esper.errors"
]
# What a user calls, or overrides: each public method is documented as a function is.
FACES = ("TolariaTrainer", "TolariaService", "TolariaConfig", "Callback", "Policy", "Logger", "Loader")


def find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


OBJECTS = {name: find(name) for name in NAMES}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def raises(function: Any) -> bool:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree))


def missing_sections(function: Any, doc: str) -> list[str]:
    """The sections that a function's docstring lacks."""
    arguments = doc.partition("Args:")[2]
    missing = [f"Args: {name}" for name in parameters(function) if not re.search(rf"\b{name}\b", arguments)]
    returned = inspect.signature(function).return_annotation
    missing += ["Returns"] if returned not in (None, "None") and "Returns:" not in doc else []
    return missing + (["Raises"] if raises(function) and "Raises:" not in doc else [])


def own_arguments(kind: type) -> list[str]:
    """The parameters that a class is made with; none of a configuration group or an interface."""
    if issubclass(kind, ConfigGroup) or getattr(kind, "_is_protocol", False):
        return []
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind) if field.init and field.name[0] != "_"]
    return parameters(kind.__init__) if "__init__" in vars(kind) else []  # type: ignore[misc]


def missing_of_class(kind: type, doc: str) -> list[str]:
    """The sections on how an object is made that a class's docstring lacks."""
    arguments = doc.partition("Args:")[2]
    missing = [f"Args: {name}" for name in own_arguments(kind) if not re.search(rf"\b{name}\b", arguments)]
    made = "__post_init__" if dataclasses.is_dataclass(kind) else "__init__"
    interface = getattr(kind, "_is_protocol", False)  # whose __init__ only says that it makes no objects
    checks = not interface and made in vars(kind) and raises(vars(kind)[made])
    return missing + (["Raises"] if checks and "Raises:" not in doc else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_api_says_its_arguments_results_errors_and_an_example(name: str) -> None:
    target, doc = OBJECTS[name], inspect.getdoc(OBJECTS[name]) or ""
    missing = missing_of_class(target, doc) if isinstance(target, type) else missing_sections(target, doc)
    if not hasattr(target, "__members__"):  # an enumeration needs no example
        missing += [] if ">>>" in doc else ["Example"]
    assert missing == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.rpartition(".")[2] in FACES])
def test_each_method_of_a_plug_in_interface_or_a_trainer_is_documented(name: str) -> None:
    missing = {}
    for method, function in vars(OBJECTS[name]).items():
        function = getattr(function, "__func__", function)
        if method.startswith("_") or not inspect.isfunction(function) or method.endswith("_async"):
            continue
        missing[method] = missing_sections(function, inspect.getdoc(function) or "")
    assert {method: sections for method, sections in missing.items() if sections} == {}


@pytest.mark.parametrize("module", sorted({name.rpartition(".")[0] for name in NAMES}))
def test_examples_give_what_they_show(module: str) -> None:
    names = {name: getattr(esper, name) for name in esper.__all__} | {"torch": torch}
    found = doctest.testmod(import_module(module), extraglobs=names)
    assert found.failed == 0


def test_every_exported_name_has_a_place_in_the_api_pages() -> None:
    shown = {id(target) for target in OBJECTS.values()}
    exported = [getattr(esper, name) for name in esper.__all__ if name != "__version__"]
    exported += [getattr(tamiyo, name) for name in tamiyo.__all__]
    exported += [leyline.AdaptationCommand, leyline.Outcome, leyline.SystemStatePacket, leyline.Event]
    assert [target for target in exported if id(target) not in shown] == []
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES if f"api/{page.name}" not in navigation] == []
