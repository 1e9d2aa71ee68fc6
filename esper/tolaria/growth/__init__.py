"""What a seed will bring, estimated before it is paid for: scores of a moment, and a look ahead.

How well each ranks the gain that a graft then brings: `python scripts/benchmarks/signals.py`.
"""

from esper.tolaria.foresight.scores import Scores, score
from esper.tolaria.growth.candidate_search import Scout
from esper.tolaria.growth.lookahead import Lookahead, Place
from esper.tolaria.growth.trial import trial_with

__all__ = ["Lookahead", "Place", "Scores", "Scout", "score", "trial_with"]
