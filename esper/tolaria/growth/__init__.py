"""Growth within an epoch: health, decisions, commands; and what a seed will bring, found by a look ahead."""

from esper.tolaria.growth.candidate_search import CandidateSearch
from esper.tolaria.growth.lookahead import DataPosition, Lookahead
from esper.tolaria.growth.trial import copy_with_seed

__all__ = ["CandidateSearch", "DataPosition", "Lookahead", "copy_with_seed"]
