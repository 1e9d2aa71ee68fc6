"""`esper-ctl RUN status|pause|resume|stop|checkpoint`: status and control of a run from another process."""

from __future__ import annotations

import sys

from esper.utils.os_signals import exit_on_signals

if __name__ == "__main__":
    # before the imports below, which take time
    with exit_on_signals():
        from esper.ctl import main as run_main

        sys.exit(run_main())

import json
import shlex
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from esper import __version__
from esper.control.client import NotListeningError, RequestFailedError, send_request
from esper.control.offline import find_run_dir, read_run_state
from esper.control.protocol import COMMANDS
from esper.control.socket_path import read_address
from esper.utils.bounded_read import read_object
from esper.utils.lock import live_holder
from esper.utils.stdout import flush_output, print_flushed

_OWN_KEYS = ("run_dir", "checkpoint.resume_from_checkpoint")
DONE, UNUSABLE, NOT_RUNNING, NO_ANSWER = 0, 2, 3, 4

_HELP = """\
commands:
  status      where the run is: epoch, step, losses, seeds, last checkpoint
  pause       hold the run after the present batch
  resume      let a paused run go on
  stop        save and end the run after the present batch
  checkpoint  save now; answers with the name once it is safely on the disk

exit codes: 0 done, 2 no run there, 3 the run is over or died, 4 it did not answer or rejected the request
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `_HELP` for the exit codes."""
    try:
        given = _parse(argv)
    except BrokenPipeError:  # while the parser showed its help
        return DONE
    finally:
        flush_output()
    run_dir = find_run_dir(Path(given.run))
    if run_dir is None:
        print_flushed(f"esper-ctl: {given.run} is no run folder and lies in none", sys.stderr)
        return UNUSABLE
    try:
        return _status(run_dir, given) if given.command == "status" else _command(run_dir, given)
    except RequestFailedError as error:
        print_flushed(f"esper-ctl: {error}", sys.stderr)
        return NO_ANSWER


def _parse(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(
        "esper-ctl",
        description="Look at a run, or steer it, from another process.",
        epilog=_HELP,
        formatter_class=RawDescriptionHelpFormatter,  # as written: the commands are a table
    )
    parser.add_argument("run", nargs="?", default=".", help="the run folder, or a path in it (default: here)")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="what to do, see below")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds to wait for an answer")
    parser.add_argument("--version", action="version", version=f"esper {__version__}")
    return parser.parse_args(argv)


def _request(run_dir: Path, given: Namespace) -> dict[str, Any]:
    note = read_address(run_dir)
    if note is None:
        holder = live_holder(run_dir)
        if holder is not None:
            why = "yet, or services.control_socket is false"
            raise NotListeningError(f"process {holder.pid} does not listen {why}")
        raise NotListeningError(f"no process has {run_dir}, and the run in it was not ended")
    # a checkpoint is answered once it is on the disk
    default_s = 600.0 if given.command == "checkpoint" else 5.0
    return send_request(note, given.command, timeout_s=given.timeout or default_s)


def _status(run_dir: Path, given: Namespace) -> int:
    why = ""
    try:
        state = _request(run_dir, given)
    except NotListeningError as error:
        why, state = str(error), read_run_state(run_dir)
    print_flushed(json.dumps(state) if given.json else "\n".join(_status_lines(state)))
    if state["state"] == "died":
        print_flushed(f"esper-ctl: {why}; to go on: {_resume_command(run_dir)}", sys.stderr)
        return NOT_RUNNING
    return DONE


def _command(run_dir: Path, given: Namespace) -> int:
    try:
        result = _request(run_dir, given)
    except NotListeningError as error:
        state = read_run_state(run_dir)
        reason = {
            "finished": "the run is finished",
            "incomplete": "the run is over, and a result could not be saved",
            "stopped": "the run was stopped",
        }
        print_flushed(f"esper-ctl: {reason.get(state['state'], error)}", sys.stderr)
        if state["state"] in ("incomplete", "stopped", "died"):
            print_flushed(f"  to go on: {_resume_command(run_dir)}", sys.stderr)
        return NOT_RUNNING
    print_flushed(json.dumps(result) if given.json else result["said"])
    return DONE


def _resume_command(run_dir: Path) -> str:
    """The command with the overrides that the run was started with, as far as its status has them."""
    from esper.config.quoting import command_word  # imported here: it takes a tenth of a second

    try:
        saved = read_object(run_dir / "status.json").get("overrides")
    except (OSError, ValueError):
        saved = None
    lines = [str(line) for line in saved] if isinstance(saved, list) else []
    kept = [shlex.quote(line) for line in lines if line.lstrip("+").partition("=")[0] not in _OWN_KEYS]
    own = [command_word("run_dir", str(run_dir)), "checkpoint.resume_from_checkpoint=auto"]
    return " ".join(["esper-train", *kept, *own])


def _status_lines(state: Mapping[str, Any]) -> Iterator[str]:
    by = f" by {state['stopped_by']}" if state.get("stopped_by") else ""
    process = f", process {state['pid']}" if state.get("pid") else ""
    of = f" of {state['max_epochs']}" if state.get("max_epochs") else ""
    yield f"{state['state']}{by}: epoch {state.get('epoch', 0)}{of}, step {state.get('step', 0)}{process}"
    yield from _row("loss", _losses(state))
    yield from _row("test", _scores(state.get("test_loss"), state.get("test_accuracy")))
    for seed in state.get("seeds") or ():
        alpha = f", alpha {seed['alpha']:.2f}" if seed.get("alpha") is not None else ""
        name = f"{seed['layer']}[{seed['seed']}] {seed['blueprint']}"
        yield from _row("seed", f"{name}: {seed['stage']}{alpha}")
    for sentence in state.get("unsaved", ()):
        yield from _row("lost", str(sentence))
    yield from _row("saved", state.get("last_checkpoint") or "nothing yet")
    if state.get("emergency_level"):
        yield from _row("alarm", f"emergency level {state['emergency_level']}")


def _row(label: str, text: str) -> Iterator[str]:
    if text:
        yield f"  {label:6} {text}"


def _losses(state: Mapping[str, Any]) -> str:
    training = _scores(state.get("train_loss"), None)
    validation = _scores(state.get("val_loss"), state.get("val_accuracy"))
    parts = [f"{name} {text}" for name, text in (("training", training), ("validation", validation)) if text]
    return ", ".join(parts)


def _scores(loss: float | None, accuracy: float | None) -> str:
    shown = "" if loss is None else f"{loss:.4f}"
    return shown if accuracy is None else f"{shown} ({100 * accuracy:.1f} %)"
