"""The command line: compose, check, run, exit code. `esper-train` and `python -m esper.train`."""

from __future__ import annotations

import sys

from esper.utils.os_signals import before_exit, exit_on_signals

if __name__ == "__main__":
    # before the imports below, which take time; and `task` under its own name, so that a launcher can find it
    with exit_on_signals():
        from esper.train import main as run_main

        sys.exit(run_main())

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from esper import __version__
from esper.cli.composer import plain
from esper.cli.flags import Flags, parse_flags
from esper.cli.help import help_text
from esper.cli.jobs import (
    BY_SIGINT,
    CRASHED,
    DONE,
    REFUSED,
    clear_status,
    exit_code,
    outcome_table,
    print_errors,
    run_planned,
)
from esper.cli.launch import launch
from esper.cli.plan import Plan, PlannedRun, compose_shown, make_plan
from esper.cli.show import shown_text
from esper.config import TolariaConfig
from esper.config.messages import error_message
from esper.errors import ConfigError
from esper.utils.lock import FolderLock, in_use_message, live_holder
from esper.utils.stdout import flush_output, print_flushed

if TYPE_CHECKING:
    from esper.runs.checked_run import CheckedRun

# The folders that this process has locked.
_locks: dict[Path, FolderLock] = {}
# What `_checked` has found right, by folder.
_checked_runs: dict[Path, CheckedRun] = {}


def main() -> int:
    """Do what the command line asks; the exit code is 0 done, 1 internal error, 2 configuration or input,
    3 halted by an emergency, 4 finished, but results could not all be saved, 129, 130 and 143 by signal.
    """
    with exit_on_signals(), ExitStack() as owned:
        return _main(sys.argv[1:], owned)


def _main(argv: Sequence[str], owned: ExitStack) -> int:
    if "--version" in argv:
        print_flushed(f"esper {__version__}")
        return DONE
    try:
        flags = parse_flags(argv)
        if flags.shows:
            return _show(flags)
        plan = _checked(flags)
        if any(job.config.validate_only for job in plan.jobs):
            print_flushed(f"valid: {len(plan.jobs)} {'jobs' if plan.sweep else 'run'}, nothing was started")
            return DONE
        _prepare(plan, owned)
    except KeyboardInterrupt:
        return BY_SIGINT
    except ConfigError as error:
        print_errors(error.problems)
        return REFUSED
    except BrokenPipeError:  # Hydra's own prints: the reader of the pipe has ended
        return DONE
    except OSError as error:
        print_errors([_sentence(error)], "what the command reads")
        return REFUSED
    finally:
        flush_output()
    return _run(plan)


def check(argv: Sequence[str]) -> list[str]:
    """Every problem of a command line, a sentence each; nothing is run and no folder is made."""
    try:
        flags = parse_flags(argv)
        if not flags.shows:
            _checked(flags)
        elif flags.composes:
            compose_shown(flags)
    except ConfigError as error:
        return error.problems
    return []


def task(options: DictConfig) -> int:
    """One job, called by Hydra (by some launchers in another process) when its folder is made."""
    own = HydraConfig.get()
    folder = _key(Path(own.runtime.output_dir))
    sweep_dir = Path(own.sweep.dir) if own.mode == RunMode.MULTIRUN else None
    number = int(own.job.num) if sweep_dir is not None else None
    overrides = [str(line) for line in OmegaConf.to_container(own.overrides.task, resolve=False) or ()]

    def run() -> int:
        from esper.runs import checked_run
        from esper.runs.run_job import run_job

        # another process, which a launcher has started, has checked nothing yet
        checked = _checked_runs.pop(folder, None) or checked_run.check(
            TolariaConfig.from_dict(plain(options)), folder
        )
        return run_job(
            checked, overrides=overrides, number=number, sweep_dir=sweep_dir, lock=_locks.get(folder)
        )

    with ExitStack() as owned:
        if folder not in _locks:
            # a job of a sweep: before its status file, which may be another run's
            try:
                _lock(folder, owned)
            except ConfigError as error:
                print_errors(error.problems)
                return REFUSED
        code = run_planned(run, folder, number, overrides)
    if code > 128:
        # Hydra would start the next job of the sweep, and a signal is meant for all of them
        raise SystemExit(code)
    return code


def _checked(flags: Flags) -> Plan:
    """The jobs of a command line, every one of them checked; raises `ConfigError`."""
    plan = make_plan(flags)
    _refuse(plan.collect(lambda job: job.problems or _in_use(job.folder)))
    # not before: this loads torch, and a typing error is answered without it
    from esper.runs import check_hydra, checked_run

    def deep(job: PlannedRun) -> list[str]:
        problems = check_hydra(job.hydra, job.config.allowed_targets)
        try:
            run = checked_run.check(job.config, job.folder, named=plan.named)
        except ConfigError as error:
            return [*problems, *error.problems]
        _checked_runs[_key(job.folder)] = replace(run, run_dir=_key(job.folder))
        return problems

    _refuse(plan.collect(deep))
    return plan


def _refuse(problems: list[str]) -> None:
    if problems:
        raise ConfigError(problems)


def _in_use(folder: Path) -> list[str]:
    """The sentence for a folder that a process of this machine has; of others, the lock itself knows more."""
    holder = live_holder(folder)
    return [in_use_message(folder, holder)] if holder is not None and holder.local else []


def _lock(folder: Path, owned: ExitStack) -> None:
    """Hold the folder to the end of `owned`; raises `ConfigError` where another run has it."""
    _locks[folder] = lock = FolderLock.take(folder)
    owned.callback(_locks.pop, folder)
    owned.callback(lock.release)
    owned.enter_context(before_exit(lambda _: lock.release()))


def _key(folder: Path) -> Path:
    """The folder as Hydra spells it to the task."""
    return Path(os.path.abspath(folder))  # noqa: PTH100 - takes `..` out, as Hydra does


def _prepare(plan: Plan, owned: ExitStack) -> None:
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        # here, because Hydra writes into the folder before it calls the task
        _lock(_key(plan.folder), owned)
        clear_status(plan)
    except OSError as error:
        expected = f"a folder that can be written to ({error.strerror})"
        raise ConfigError(error_message("run_dir", str(plan.folder), expected)) from error


def _show(flags: Flags) -> int:
    if flags.shows[0] == "--help":
        groups, composed = compose_shown(flags)
        print_flushed(help_text(groups, composed))
    else:
        print_flushed(shown_text(flags))
    return DONE


def _run(plan: Plan) -> int:
    """Have Hydra run every job; what they left in their folders says how it went."""
    launched = _launched(plan)
    if plan.sweep:
        print_flushed(outcome_table(plan))
    # a signal ends the whole sweep, whatever its other jobs say
    return launched if launched > 128 else exit_code(plan) or launched


def _launched(plan: Plan) -> int:
    """The exit code of what Hydra runs; what it raises is printed as a sentence."""
    try:
        launch(plan, task)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE
    except CompactHydraException as error:
        print_errors(str(error).splitlines(), "what Hydra was asked for")
        return REFUSED
    except OSError as error:
        print_errors([_sentence(error)], "writing the first files of a run; expected a folder with room")
        return CRASHED
    return DONE


def _sentence(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
