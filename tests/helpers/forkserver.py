"""Starts the commands as forks of a process that has imported everything; each test process has one.

Each start is a process of its own, with its own working folder, environment and output, and a signal reaches
it like any other process; what it saves is four seconds of importing. `helpers.command.fresh_esper_train`
starts an interpreter instead.
"""

from __future__ import annotations

import os
import resource
import runpy
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from faults.harness.processes import ChildProcess, Server
from faults.harness.server import function

TRAIN = "esper.train:main"
CTL = "esper.ctl:main"
SCRIPT = f"{__name__}:run_script"

_servers: list[Server] = []


def start(
    *arguments: str,
    cwd: Path | None = None,
    call: str = TRAIN,
    environment: Mapping[str, str] | None = None,
    file_limit: int | None = None,
) -> ChildProcess:
    """The command `call` with these arguments, running.

    Args:
        cwd: Its working folder, the first place where it looks for modules; None is a folder of the server's.
        call: `module:function`; what the function returns is the exit code.
        environment: Variables that are added to this process's own.
        file_limit: Bytes that no file may grow beyond.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **(environment or {})}
    given = (call, variables, file_limit)
    return _server().start(*arguments, call=f"{__name__}:run", arguments=given, cwd=cwd)


def run(call: str, variables: dict[str, str], file_limit: int | None) -> int:
    """In the fork: become what a new interpreter with these variables would be, and run the command."""
    os.environ.clear()
    os.environ.update(variables)
    places = variables.get("PYTHONPATH", "").split(os.pathsep)
    # the server's own first entries, its working folder and its PYTHONPATH, are not the command's
    tests = str(Path(__file__).resolve().parents[1])
    sys.path[:] = [str(Path.cwd()), *filter(None, places), *(p for p in sys.path[1:] if p != tests)]
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    code: int = function(call)()
    return code


def run_script() -> int:
    """In the fork: `python <file>` for the file named on the command line."""
    file = Path(sys.argv.pop(1))
    sys.argv[0], sys.path[0] = str(file), str(file.parent)
    runpy.run_path(str(file), run_name="__main__")
    return 0


def close() -> None:
    """End the server, if one was started."""
    while _servers:
        server = _servers.pop()
        server.__exit__()
        shutil.rmtree(server.folder)


def _server() -> Server:
    if not _servers:
        server = Server(Path(tempfile.mkdtemp(prefix="esper-tests-")), f"{__name__}:prepared")
        _servers.append(server)
    return _servers[0]


def prepared() -> None:
    """In the server, before it forks: what the commands would import while they run."""
    import esper.ctl
    import esper.runs
    import esper.runs.resume  # noqa: F401 - imported for the forks
