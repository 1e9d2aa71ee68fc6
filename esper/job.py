"""One job: from a checked configuration to a finished run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from esper import build
from esper.config import LoggingConfig, TolariaConfig
from esper.core.atomic import remove_stale
from esper.core.runtime import resolve_device, seed_everything, set_deterministic, set_threads
from esper.data import DataBundle
from esper.errors import ConfigError
from esper.kasmina import MorphableModel, wrap
from esper.leyline import EventName, Level
from esper.records import (
    Display,
    JsonlSink,
    LogSink,
    Recorder,
    RunInfo,
    Sink,
    TensorBoardSink,
    WandbSink,
    closing_table,
    draw_run,
    setup_logging,
    summarise_metrics,
    write_summary,
)
from esper.records.lines import METRICS_FILE
from esper.tolaria.evaluate import Evaluation
from esper.tolaria.parts import Parts
from esper.tolaria.run import Run
from esper.tolaria.signals import Wishes
from esper.tolaria.state import Checkpoint, find_checkpoint, load_checkpoint
from esper.tolaria.summary import summarize

SUMMARY_FILE = "summary.json"
CONFIG_FILE = "config.yaml"


class Job:
    """Builds the parts that a configuration names, runs them, and owns what has to be closed.

    `model` takes the place of the configured architecture. `group` and `name` say which sweep the job
    belongs to, and which of its jobs it is. Use as a context manager.
    """

    def __init__(
        self,
        config: TolariaConfig,
        run_dir: Path,
        *,
        model: nn.Module | None = None,
        console: Console | None = None,
        group: str | None = None,
        name: str | None = None,
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.console = console or Console()
        self.group = group
        self.name = name
        self.wishes = Wishes()
        self.run: Run | None = None
        self._given_model = model
        self._owned = ExitStack()
        self.failed = False

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.failed = kind is not None
        self._owned.close()

    # -- the parts -------------------------------------------------------------------------------

    def prepare(self) -> Run:
        """Build everything, take up a checkpoint where one is named, and open the records."""
        config = self.config
        self._refuse_used_folder()
        self._display = Display(self.console, config.logging.progress)
        self._recorder = make_recorder(config.logging, self._display)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        # without its folder: who runs the file again wants a run of its own
        replace(config, run_dir=None).to_yaml(self.run_dir / CONFIG_FILE)
        self._owned.enter_context(process_settings(config))
        self._owned.callback(setup_logging(config.logging, self.run_dir))
        build.register_blueprints(config)
        device = resolve_device(config.device)
        data = build.build_dataset(config, seed=config.seed, device=device)
        seed_everything(config.seed)
        model = self.build_model(data).to(device)
        checkpoint = self._checkpoint()
        self.run = Run(config, self._parts(model, data, device), self.wishes)
        self._owned.callback(self._recorder.close)
        self._recorder.start(self._info(self.run, checkpoint))
        if checkpoint is not None:
            self._take_up(self.run, checkpoint)
        self._announce(self.run, data, checkpoint)
        return self.run

    def _refuse_used_folder(self) -> None:
        """A folder belongs to one run: another in it would leave a mixture of both."""
        own = self.run_dir / self.config.checkpoint.checkpoint_dir
        metrics = self.run_dir / METRICS_FILE
        used = [metrics] if metrics.is_file() and metrics.stat().st_size else []
        used += [own] if own.is_dir() and any(own.iterdir()) else []
        if used and (self.config.mode == "test" or self.config.checkpoint.resume_from_checkpoint is None):
            raise ConfigError(
                f"{self.run_dir} holds a run already ({used[0].name}); expected a folder of its own, or "
                f"checkpoint.resume_from_checkpoint={self.run_dir} to go on with that run"
            )

    def build_model(self, data: DataBundle) -> MorphableModel:
        """The host that the configuration (or the caller) names, made growable."""
        m = self.config.model
        host = self._given_model
        if host is None:
            host = build.build_model(self.config, data.info)
        return wrap(
            host,
            m.target_layers,
            m.seeds_per_layer,
            cache_size_mb=m.cache_size_mb,
            telemetry_enabled=m.telemetry_enabled,
            preserve_original=m.preserve_original,
            seed=self.config.seed,
        )

    def _parts(self, model: MorphableModel, data: DataBundle, device: torch.device) -> Parts:
        config = self.config
        loss = build.build_loss(config)
        growing = config.morphogenetic.tamiyo_enabled and config.mode == "train"
        return Parts(
            model=model,
            data=data.info,
            train=data.train,
            validation=data.validation,
            test=data.test,
            # class weights belong where the scores are
            loss=loss.to(device) if isinstance(loss, nn.Module) else loss,
            form=build.build_batch_form(config),
            optimizer=build.optimizer_factory(config),
            schedule=build.schedule_factory(config),
            tamiyo=build.build_policy(config) if growing else None,
            device=device,
            records=self._recorder,
            watcher=self._display,
            run_dir=self.run_dir,
        )

    def _info(self, run: Run, checkpoint: Checkpoint | None) -> RunInfo:
        saved: Mapping[str, Any] = checkpoint.state["run"] if checkpoint is not None else {}
        own = checkpoint is not None and self.config.mode == "train" and self._is_own(checkpoint)
        return RunInfo(
            session_name=self.config.session_name,
            run_dir=self.run_dir,
            config=self.config.to_dict(),
            max_epochs=self.config.optimization.max_epochs,
            steps_per_epoch=run.steps_per_epoch,
            samples_per_epoch=run.parts.train.num_samples,
            params_host=run.model.host_params(),
            start_step=saved["progress"]["step"] if saved else 0,
            resumed=own,
            group=self.group,
            job=self.name,
            state=saved["records"] if own else {},
        )

    # -- resuming --------------------------------------------------------------------------------

    def _checkpoint(self) -> Checkpoint | None:
        wanted = self.config.checkpoint.resume_from_checkpoint
        if wanted is None:
            return None
        own = self.run_dir / self.config.checkpoint.checkpoint_dir
        if own.is_dir():
            remove_stale(own)
        if wanted == "auto" and not (own.is_dir() and any(own.iterdir())):
            return None
        found = find_checkpoint(own if wanted == "auto" else Path(wanted))
        for sentence in found.refused:
            self.console.print(sentence, markup=False, highlight=False)
        return load_checkpoint(found.path)

    def _is_own(self, checkpoint: Checkpoint) -> bool:
        return self.run_dir.resolve() in checkpoint.path.resolve().parents

    def _take_up(self, run: Run, checkpoint: Checkpoint) -> None:
        if self.config.mode == "test":
            run.load_model(checkpoint)
            return
        if self.config.trainer.num_threads is None:
            set_threads(checkpoint.state["run"]["threads"])  # sums depend on how they are split
        run.store.restore(checkpoint)
        data = {"from": str(checkpoint.path), "epoch": run.progress.epoch, "step": run.progress.step}
        run.telemetry.emit(EventName.RUN_RESUMED, data)

    # -- telling ---------------------------------------------------------------------------------

    def _announce(self, run: Run, data: DataBundle, checkpoint: Checkpoint | None) -> None:
        facts: dict[str, Any] = {
            "session_name": self.config.session_name,
            "device": str(run.parts.device),
            "threads": torch.get_num_threads(),
            "params_host": run.model.host_params(),
            "params_now": run.model.total_params(),
            "train_samples": data.train.num_samples,
            "validation_samples": data.validation.num_samples,
            "test_samples": data.test.num_samples,
            "config_hash": self.config.hash(),
        }
        if checkpoint is not None:
            facts["resumed_from"] = str(checkpoint.path)
        run.telemetry.emit(EventName.RUN_STARTED, facts)
        notes = [*data.notes, *idle_options(self.config)]
        if notes:
            run.telemetry.emit(EventName.OPTION_IDLE, {"notes": "; ".join(notes)})

    # -- the three modes -------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train to the end, read the test set with the best model, and write what came out."""
        run = self.prepare()
        run.train()
        params_last = run.model.total_params()
        run.best.restore()  # also where nothing is tested: the summary and the saved weights are its
        test = run.test() if self._wants_test(run) else None
        summary = self._finish(run, test, params_last)
        if self.config.checkpoint.save_final_model:
            self.save_model(run)
        return summary

    @staticmethod
    def _wants_test(run: Run) -> bool:
        # a run that was asked to stop is to be gone quickly; it will be resumed and tested at its end
        return run.progress.stopped_by in ("max_epochs", "early_stopping")

    def test(self) -> dict[str, Any]:
        """Evaluate a checkpoint's best model on the test set."""
        run = self.prepare()
        return self._finish(run, run.test(), run.model.total_params())

    def dry_run(self) -> str:
        """Build everything, run one batch forward and backward, and describe the model."""
        run = self.prepare()
        run.dry_run()
        self._owned.close()
        self.run = None  # it has only been looked at; the real one is still to come
        return run.model.summary()

    def _finish(self, run: Run, test: Evaluation | None, params_last: int) -> dict[str, Any]:
        summary = summarize(run, test, params_last)
        summary["run_dir"] = str(self.run_dir)
        if self.config.checkpoint.resume_from_checkpoint is not None:
            summary["resumed_from"] = self.config.checkpoint.resume_from_checkpoint
        run.telemetry.emit(EventName.RUN_FINISHED, {"stopped_by": summary["stopped_by"]})
        self._recorder.finish(summary)
        write_summary(self.run_dir / SUMMARY_FILE, summary)
        log = self.config.logging
        if log.save_metrics:
            write_summary(self.run_dir / log.metrics_file, summarise_metrics(self.run_dir))
        self._draw(run)
        self._owned.close()
        self.console.print(closing_table(summary))
        return summary

    def _draw(self, run: Run) -> None:
        if not self.config.logging.track_metrics or run.progress.epoch == 0:
            return
        try:
            draw_run(self.run_dir)
        except (OSError, ValueError, RuntimeError) as error:
            run.telemetry.emit(EventName.NOTICE, {"message": f"no picture: {error}"}, level=Level.WARNING)

    def save_model(self, run: Run) -> Path:
        """Write the best model's weights and topology to one safetensors file."""
        path = self.run_dir / self.config.checkpoint.model_save_path
        path.parent.mkdir(parents=True, exist_ok=True)
        # clones: weights that are tied in the model are written under each of their names
        state = run.model.state_dict()
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state.items()}
        save_file(tensors, path, metadata={"format": "pt", "created": datetime.now().isoformat()})
        return path


def make_recorder(config: LoggingConfig, display: Display) -> Recorder:
    """The sinks that the configuration asks for: files and display at once, the others behind a queue."""
    files: list[Sink] = [JsonlSink(), LogSink(), display]
    slow: list[Sink] = []
    if config.use_tensorboard:
        slow.append(TensorBoardSink(config.tensorboard_log_dir))
    if config.use_wandb:
        slow.append(WandbSink(config.wandb_project, config.wandb_entity, config.wandb_config))
    return Recorder(files, slow, time.time, metrics_interval=config.metrics_interval)


@contextmanager
def process_settings(config: TolariaConfig) -> Iterator[None]:
    """Threads, determinism, anomaly detection as configured; as they were afterwards, for the next job."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    anomalies = torch.is_anomaly_enabled()
    set_threads(config.trainer.num_threads)
    set_deterministic(config.trainer.deterministic)
    torch.autograd.set_detect_anomaly(config.debug_mode)
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(anomalies)
        set_threads(threads)
        set_deterministic(deterministic)


def idle_options(config: TolariaConfig) -> list[str]:
    """Options that have no effect with the others as they are, and what cannot be repeated exactly."""
    notes = []
    m = config.morphogenetic
    if not m.tamiyo_enabled:
        notes.append("morphogenetic.* is idle: tamiyo_enabled is false")
    elif m.adaptation_cooldown > 0:
        notes.append(
            f"morphogenetic.adaptation_cooldown is {m.adaptation_cooldown:g} s of wall clock: "
            "this run cannot be repeated exactly"
        )
    return notes
