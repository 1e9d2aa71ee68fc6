"""One job: from a checked configuration to a finished run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn

from esper.data import DataBundle, Datasets
from esper.kasmina import MorphableModel
from esper.leyline import FINISHED_BY, EventName, Level
from esper.loggers import (
    JsonlLogger,
    ProgressBar,
    RunInfo,
    StatusLogger,
    describe_gaps,
    print_summary_table,
    restore_metrics,
    setup_logging,
)
from esper.runs.builder import build_dataset, register_blueprints
from esper.runs.checkpoint_folder import claim, clear_unfinished, folder_to_write
from esper.runs.components import grow_host, make_parts
from esper.runs.context import RunContext
from esper.runs.control_handler import ControlHandler
from esper.runs.extensions import build_callbacks, build_loggers
from esper.runs.finalize import write_results
from esper.runs.outputs import BestEffortWriter
from esper.runs.process import (
    idle_options,
    keep_logger_ids,
    make_recorder,
    process_settings,
    saved_logger_ids,
    start_control_server,
    worth_a_line,
)
from esper.runs.resume import (
    CONFIG_FILE,
    ResumePoint,
    describe_origin,
    find_origin,
    keep_beginning,
    load_origin,
    replace_summary,
    restore_run,
    set_killed_aside,
    what_finished,
)
from esper.runs.staleness import why_behind
from esper.runs.summary import summarize
from esper.tolaria.callbacks import Callback
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.evaluator import Evaluation
from esper.tolaria.loop import TrainingLoop
from esper.tolaria.run_control import RunControl
from esper.utils.device_and_rng import resolve_device, seed_everything
from esper.utils.files import remove_stale
from esper.utils.lock import FolderLock

if TYPE_CHECKING:
    from esper.runs.checked_run import CheckedRun


class Job:
    """Builds the parts that a configuration names, runs them, and owns what has to be closed.

    `model` and `datasets` take the place of what the configuration names, `callbacks` come after those that
    it names. Use as a context manager.
    """

    def __init__(
        self,
        checked: CheckedRun,
        *,
        model: nn.Module | None = None,
        datasets: Datasets | None = None,
        callbacks: Sequence[Callback] = (),
        context: RunContext | None = None,
    ) -> None:
        self.config, self.run_dir = checked.config, checked.run_dir
        self.context = context or RunContext()
        self.console = self.context.console or Console()
        self.run_control = RunControl()
        self.run: TrainingLoop | None = None
        self.finished = False
        self.failed = False
        self._given_model = model
        self._callbacks = callbacks
        self._datasets = datasets
        self._owned = ExitStack()
        self._warnings: list[str] = []
        self._claimed = False
        self._status = StatusLogger()
        self._answers = ControlHandler(self.config, self.run_dir, self.run_control, self._status)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.failed = kind is not None
        self._owned.close()

    # -- the folder ------------------------------------------------------------------------------

    def enter(self) -> ResumePoint:
        """Take the folder for this run alone and see what the run starts from; before, nothing is touched.

        Raises `ConfigError` where another run has it, or where what is in it does not fit.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        lock = self.context.lock
        if lock is None:
            lock = FolderLock.take(self.run_dir)
            self._owned.callback(lock.release)
        if lock.former is not None:
            self._warnings.append(lock.taken_over)
        if not lock.guarded:
            self._warnings.append("the file system has no working locks: keep other runs out of this folder")
        c = self.config.checkpoint
        clear_unfinished(self.run_dir, (".", c.checkpoint_dir, str(Path(c.model_save_path).parent)))
        origin = find_origin(self.config, self.run_dir)
        saves = folder_to_write(self.run_dir, self.config)
        if origin.finished is None and self._claim() and remove_stale(saves):
            # a save that was replacing another one has been undone
            return find_origin(self.config, self.run_dir)
        return origin

    def _claim(self, *, make: bool = False) -> bool:
        """Take a checkpoint folder that lies elsewhere for this run alone; whether there was one to take."""
        lock = None if self._claimed else claim(self.run_dir, self.config, make=make)
        if lock is not None:
            self._claimed = True
            self._owned.callback(lock.release)
        return lock is not None

    def _listen(self) -> None:
        if not self.config.services.control_socket:
            return
        server, problem = start_control_server(self._answers, self.run_dir)
        if server is None:
            self._warnings.append(problem)
        else:
            self._owned.callback(server.close)

    # -- the parts -------------------------------------------------------------------------------

    def prepare(self, origin: ResumePoint | None = None, *, dry: bool = False) -> TrainingLoop:
        """Build everything, take up a checkpoint where one is named, and open the records.

        A `dry` one writes nothing.
        """
        config = self.config
        origin = origin or self.enter()
        origin, checkpoint = load_origin(origin, config, self.run_dir)
        if not dry:
            self._begin_files(origin)
        self._display = ProgressBar(self.console, config.logging.progress)
        own = [] if dry else build_loggers(config)
        self._recorder = make_recorder(config.logging, self._display, self._status, own, dry=dry)
        self._owned.enter_context(process_settings(config))
        self._owned.callback(setup_logging(config.logging, self.run_dir))
        register_blueprints(config)
        device = resolve_device(config.device)
        data = build_dataset(config, seed=config.seed, device=device, datasets=self._datasets)
        seed_everything(config.seed)
        model = self.build_model(data).to(device)
        components = make_parts(
            config,
            model,
            data,
            device,
            records=self._recorder,
            progress_callback=self._display,
            run_dir=self.run_dir,
            callbacks=[*build_callbacks(config), *self._callbacks],
        )
        run = TrainingLoop(config, components, self.run_control)
        self._owned.callback(self._recorder.close)
        if not dry:
            self._mend_records(checkpoint, origin)
        self._recorder.start(self._info(run, checkpoint, origin))
        if not dry:
            keep_logger_ids(self.run_dir, self._recorder)
        self._take_up(run, checkpoint, origin)
        self._announce(run, data, origin)
        self.run = self._answers.run = run
        return run

    def build_model(self, data: DataBundle) -> MorphableModel:
        """The host, made growable; where a run should start from something else, a subclass says so here."""
        return grow_host(self.config, data, self._given_model)

    def _begin_files(self, origin: ResumePoint) -> None:
        wanted = self.config.checkpoint.resume_from_checkpoint
        self._claim(make=True)
        aside = set_killed_aside(self.run_dir, self.config) if wanted == "auto" and not origin.own else []
        keep_beginning(origin, self.config, self.run_dir)
        if aside:
            begins = "begins anew" if origin.path is None else f"begins again from {origin.path}"
            self._warnings.append(
                f"no checkpoint here to go on from, so the run {begins}; what an earlier start has left "
                f"was renamed: {', '.join(aside)}"
            )
        replace_summary(self.run_dir)
        # without its folder: who runs the file again wants a run of its own
        replace(self.config, run_dir=None).to_yaml(self.run_dir / CONFIG_FILE)

    def _take_up(self, run: TrainingLoop, checkpoint: Checkpoint | None, origin: ResumePoint) -> None:
        if checkpoint is None:
            return
        if self.config.mode == "test":
            named = self.config.checkpoint.resume_from_checkpoint
            older = why_behind(Path(named), checkpoint) if named not in (None, "auto") else ""
            self._warnings += [older] if older else []
            run.load_model(checkpoint)
            return
        restore_run(run, checkpoint, origin)
        for line in describe_origin(origin, run):
            self._say(line)

    def _mend_records(self, checkpoint: Checkpoint | None, origin: ResumePoint) -> None:
        """Restore the lines of epochs that were lost since the run was saved; warn of that and the rest."""
        if checkpoint is None or not origin.own:
            return
        run, interval = checkpoint.state["run"], self.config.logging.metrics_interval
        lengths, epoch = run["records"].get(JsonlLogger.NAME, {}), run["progress"]["epoch"]
        if restored := restore_metrics(self.run_dir, lengths):
            self._warnings.append(restored)
        if holes := describe_gaps(self.run_dir, lengths, epoch, interval=interval):
            self._warnings.append(
                f"the records of this run are not what they were when it was saved: {holes}"
            )

    def _say(self, line: str) -> None:
        with suppress(SystemExit):  # so rich ends the process where the reader of a pipe has gone
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _info(self, run: TrainingLoop, checkpoint: Checkpoint | None, origin: ResumePoint) -> RunInfo:
        saved: Mapping[str, Any] = checkpoint.state["run"] if checkpoint is not None else {}
        return RunInfo(
            session_name=self.config.session_name,
            run_dir=self.run_dir,
            config=self.config.to_dict(),
            max_epochs=self.config.optimization.max_epochs,
            steps_per_epoch=run.steps_per_epoch,
            samples_per_epoch=run.components.train.num_samples,
            params_host=run.model.host_params(),
            start_step=saved["progress"]["step"] if saved else 0,
            resumed=origin.own,
            group=self.context.group,
            job=self.context.name,
            state=saved["records"] if origin.own else saved_logger_ids(self.run_dir),
        )

    # -- telling ---------------------------------------------------------------------------------

    def _announce(self, run: TrainingLoop, data: DataBundle, origin: ResumePoint) -> None:
        facts: dict[str, Any] = {
            "session_name": self.config.session_name,
            "device": str(run.components.device),
            "threads": torch.get_num_threads(),
            "params_host": run.model.host_params(),
            "params_now": run.model.total_params(),
            "train_samples": data.train.num_samples,
            "validation_samples": data.validation.num_samples,
            "test_samples": data.test.num_samples,
            "config_hash": self.config.hash(),
        }
        if origin.path is not None:
            facts["resumed_from"] = str(origin.path)
        run.telemetry.emit(EventName.RUN_STARTED, facts)
        notes = [*data.notes, *idle_options(self.config)]
        if notes:
            run.telemetry.emit(EventName.OPTION_IDLE, {"notes": "; ".join(notes)}, level=Level.DEBUG)
        for shown in worth_a_line(notes, self.config):
            run.telemetry.emit(EventName.OPTION_IDLE, {"notes": shown})
        for text in [*self._warnings, *run.loss.notes]:
            run.telemetry.warn(EventName.NOTICE, {"message": text})

    # -- the three modes -------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train to the end, read the test set with the best model, and write the results.

        A run that is resumed by `auto` and is finished is left as it is; its summary is returned.
        """
        origin = self.enter()
        if origin.finished is not None:
            self.finished = True
            self._owned.close()
            self._say(what_finished(self.run_dir, origin.finished))
            return dict(origin.finished)
        self._listen()
        run = self.prepare(origin)
        run.train()
        params_last = run.model.total_params()
        run.best.restore()  # also where nothing is tested: the summary and the saved weights are its
        # a run that got a stop request must end quickly; it will be resumed and tested at its end
        test = run.test() if run.progress.stopped_by in FINISHED_BY else None
        return self._finish(run, test, params_last, origin)

    def test(self) -> dict[str, Any]:
        """Evaluate a checkpoint's best model on the test set."""
        origin = self.enter()
        run = self.prepare(origin)
        return self._finish(run, run.test(), run.model.total_params(), origin)

    def dry_run(self) -> str:
        """Build everything, run one batch forward and backward, and describe the model."""
        run = self.prepare(dry=True)
        run.dry_run()
        self._owned.close()
        self.run = None  # it has only been looked at; the real one is still to come
        return run.model.summary()

    def _finish(
        self, run: TrainingLoop, test: Evaluation | None, params_last: int, origin: ResumePoint
    ) -> dict[str, Any]:
        summary = summarize(run, test, params_last) | {"run_dir": str(self.run_dir)}
        if origin.path is not None:
            summary["resumed_from"] = str(origin.path)
        attempt = BestEffortWriter()
        write_results(run, self._recorder, self.run_dir, summary, attempt)
        with attempt("the run's records"):
            self._owned.close()
        print_summary_table(self.console, summary)
        attempt.check(summary["stopped_by"])
        return summary
