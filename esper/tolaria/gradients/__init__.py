"""Aggregates the gradients of several tasks: sum, mean, weighted mean, or PCGrad (`trainer.aggregation`).

A task is a micro-batch of a step, or an objective if the loss has several by name. Aggregation is over the
parameters that at least two tasks reach; a gradient that only one task has (of its head) is unchanged by
`sum`, `pcgrad` and matrix aggregators, and multiplied by its weight by `mean` and `weighted`.

| aggregation | micro-batches | objectives |
|---|---|---|
| `sum` | the gradient of the window as one big batch | the gradient of the sum of the objectives |
| `mean` | the mean of the micro-batches' own gradients, whatever their sizes | the gradient of their mean |
| `weighted` | as `sum`: weighted by samples | the gradient of their mean with `weights` |
| `pcgrad` | the sum of the gradients after the projection of conflicting ones | the same |
| a matrix aggregator | its result for the gradients whose sum is `sum` | its result for them |

`sum` takes one backward pass per micro-batch, without a copy. All others take one per task and count
conflicts.
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
