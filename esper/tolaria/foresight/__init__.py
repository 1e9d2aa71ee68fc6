"""What a seed will bring, estimated before it is paid for: scores of a moment, and a look ahead.

How well each ranks the gain that a graft then brings: `python scripts/benchmarks/signals.py`.
"""

from esper.tolaria.foresight.lookahead import Lookahead, Place
from esper.tolaria.foresight.scores import Scores, score
from esper.tolaria.foresight.scout import Scout
from esper.tolaria.foresight.trial import trial_with

__all__ = ["Lookahead", "Place", "Scores", "Scout", "score", "trial_with"]
