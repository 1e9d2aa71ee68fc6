"""Growth of the network: health, decisions and commands; a lookahead that compares candidates."""

from esper.tolaria.growth.candidate_search import CandidateSearch
from esper.tolaria.growth.lookahead import DataPosition, Lookahead
from esper.tolaria.growth.trial import copy_with_seed

__all__ = ["CandidateSearch", "DataPosition", "Lookahead", "copy_with_seed"]
