"""What a run leaves behind and shows: files, loggers, display, log lines, picture."""

from esper.loggers.base import Json, Logger, RunInfo
from esper.loggers.console import LogSink, setup_logging
from esper.loggers.gaps import describe_holes
from esper.loggers.hub import LoggerHub
from esper.loggers.jsonl import JsonlSink
from esper.loggers.jsonl_reader import read_lines
from esper.loggers.metrics_summary import summarise_metrics, write_summary
from esper.loggers.plots import draw_run
from esper.loggers.progress_bar import ProgressBar
from esper.loggers.restore import restore_metrics
from esper.loggers.status import StatusSink
from esper.loggers.summary_table import closing_table, show_closing_table
from esper.loggers.tensorboard import TensorBoardSink
from esper.loggers.wandb import WandbSink

__all__ = [
    "Json",
    "JsonlSink",
    "LogSink",
    "Logger",
    "LoggerHub",
    "ProgressBar",
    "RunInfo",
    "StatusSink",
    "TensorBoardSink",
    "WandbSink",
    "closing_table",
    "describe_holes",
    "draw_run",
    "read_lines",
    "restore_metrics",
    "setup_logging",
    "show_closing_table",
    "summarise_metrics",
    "write_summary",
]
