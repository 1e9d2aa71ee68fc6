"""Gradients of several tasks made one: plain, averaged, weighted, or freed of conflicts.

What `trainer.aggregation` names. A task is a micro-batch of a step's window, or, where a loss has several by
name, an objective. Everything is over the parameters that at least two tasks reach; a gradient that a single
task has (of its own head) is taken as it is by `sum`, `pcgrad` and matrix aggregators, times its weight by
`mean` and `weighted`.

| | micro-batches | objectives |
|---|---|---|
| `sum` | the gradient of the window as one big batch | the gradient of the sum of the objectives |
| `mean` | the mean of the micro-batches' own gradients, whatever their sizes | the gradient of their mean |
| `weighted` | as `sum`: each weighs by its samples | the gradient of their mean by `weights` |
| `pcgrad` | `sum`, after each has lost what it has against the others | the same |
| a matrix aggregator | what it makes of the gradients whose sum is `sum` | what it makes of them |

`sum` is one backward pass a micro-batch, with no copy. All others take one a task and count conflicts.
"""

from esper.tolaria.gradients.aggregator import Aggregator
from esper.tolaria.gradients.backward import Backward, PlainBackward, TaskBackward
from esper.tolaria.gradients.conflicts import ConflictStats
from esper.tolaria.gradients.pcgrad import PCGrad
from esper.tolaria.gradients.tasks import Tasks
from esper.tolaria.gradients.torchjd_adapter import MatrixAggregator
from esper.tolaria.gradients.weighted import Mean, Weighted

__all__ = [
    "Aggregator",
    "Backward",
    "ConflictStats",
    "MatrixAggregator",
    "Mean",
    "PCGrad",
    "PlainBackward",
    "TaskBackward",
    "Tasks",
    "Weighted",
]
