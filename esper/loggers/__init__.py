"""Outputs of a run: metric files, TensorBoard and wandb, progress bar, log lines, plot."""

from esper.loggers.base import Json, Logger, RunInfo
from esper.loggers.console import ConsoleLogger, setup_logging
from esper.loggers.gaps import describe_gaps
from esper.loggers.hub import LoggerHub
from esper.loggers.jsonl import JsonlLogger
from esper.loggers.jsonl_reader import read_jsonl
from esper.loggers.metrics_summary import summarise_metrics, write_summary
from esper.loggers.plots import plot_run
from esper.loggers.progress_bar import ProgressBar
from esper.loggers.restore import restore_metrics
from esper.loggers.status import StatusLogger
from esper.loggers.summary_table import build_summary_table, print_summary_table
from esper.loggers.tensorboard import TensorBoardLogger
from esper.loggers.wandb import WandbLogger

__all__ = [
    "ConsoleLogger",
    "Json",
    "JsonlLogger",
    "Logger",
    "LoggerHub",
    "ProgressBar",
    "RunInfo",
    "StatusLogger",
    "TensorBoardLogger",
    "WandbLogger",
    "build_summary_table",
    "describe_gaps",
    "plot_run",
    "print_summary_table",
    "read_jsonl",
    "restore_metrics",
    "setup_logging",
    "summarise_metrics",
    "write_summary",
]
