"""A process that has imported torch and Esper and forks a process for each line of JSON on its stdin.

Every process is a process of its own that a signal can hit like any other: it is forked before this one has
started a thread, and at its end its threads are joined and its exit handlers called. What it saves is the
three seconds of importing, what is computed once in a process (see `warm`), and the half second in which an
interpreter takes all its modules apart. What it does not repeat is a fresh interpreter (hash seed, imports):
tests that need them start the command itself.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

# what a process would import by itself, some of it when an optimiser is made
PRELOADED = (
    *("torch", "torch._dynamo", "sklearn.datasets", "sklearn.model_selection"),
    *("esper.train", "esper.runs.trainer", "esper.loggers.plots"),
)


def serve(*setups: str) -> Any:
    """Answer requests until stdin ends; a forked child does not return from here."""
    for name in PRELOADED:
        import_module(name)
    for setup in setups:
        function(setup)()
    gc.freeze()  # the end of a process would look through everything that was imported, and copy its pages
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads are running; a fork would copy one of them"
    _reply(0)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            _reply(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]))
            continue
        child = os.fork()
        if child == 0:
            _end(_live, request)
        _reply(child)
    return 0


def function(name: str) -> Callable[..., Any]:
    """The function called `module:name`."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found


def called(call: str, arguments: Sequence[Any]) -> Any:
    """Call `module:name`; of `module:name@module:build` the context manager `build` is in place meanwhile."""
    name, *builds = call.split("@")
    with ExitStack() as owned:
        for build in builds:
            owned.enter_context(function(build)())
        return function(name)(*arguments)


def _reply(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _end(live: Callable[[dict[str, Any]], Any], request: dict[str, Any]) -> NoReturn:
    """End as the interpreter does, but for taking the modules apart; the exit code is what `live` returns."""
    code: Any = 1
    try:
        code = live(request)
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001 - what the interpreter prints of an uncaught error
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _live(request: dict[str, Any]) -> Any:
    """Become the process that was asked for."""
    for handle, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, handle)
        os.close(opened)
    os.chdir(request["cwd"])
    sys.argv = ["esper-train", *request["argv"]]
    return called(request["call"], request["arguments"])


if __name__ == "__main__":
    # under its own name, so that what a build replaces here is replaced for all
    from faults.harness import server

    sys.exit(server.serve(*sys.argv[1:]))
