"""What a run leaves behind and shows: files, loggers, display, log lines, picture."""

from esper.records.closing import closing_table, show_closing_table
from esper.records.dispatch import Recorder
from esper.records.display import Display
from esper.records.holes import describe_holes
from esper.records.jsonl import JsonlSink
from esper.records.lines import read_lines
from esper.records.log import LogSink, setup_logging
from esper.records.picture import draw_run
from esper.records.restore import restore_metrics
from esper.records.sink import Json, RunInfo, Sink
from esper.records.status import StatusSink
from esper.records.summary import summarise_metrics, write_summary
from esper.records.tensorboard import TensorBoardSink
from esper.records.wandb import WandbSink

__all__ = [
    "Display",
    "Json",
    "JsonlSink",
    "LogSink",
    "Recorder",
    "RunInfo",
    "Sink",
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
