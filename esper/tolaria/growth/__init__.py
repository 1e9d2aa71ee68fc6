"""Growth within an epoch: health, decisions, commands; and what a seed will bring, found by a look ahead."""

from esper.tolaria.growth.candidate_search import Scout
from esper.tolaria.growth.lookahead import Lookahead, Place
from esper.tolaria.growth.trial import trial_with

__all__ = ["Lookahead", "Place", "Scout", "trial_with"]
