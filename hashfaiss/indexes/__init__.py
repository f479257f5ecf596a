"""FAISS binary indexes over distinct codes, with answers in (distance, id) order that say whether they are exact.

    CodeIndex     codes and ids → answers; the one class the rest of hashfaiss searches with
    Answers       ids and distances of each query, without padding, and whether they are certified exact
    near_groups   images whose codes lie near each other
    rerank        orders candidates by the query's real outputs
    tune          measures kinds on the codes at hand and chooses one
    KINDS         the kinds of FAISS index there are, and what each can do

This room knows codes, ids and FAISS; it imports no torch.
"""

from hashfaiss.indexes.answers import Answers
from hashfaiss.indexes.code_index import CodeIndex
from hashfaiss.indexes.distinct import Distinct
from hashfaiss.indexes.kind import Abilities, Kind
from hashfaiss.indexes.kinds import KINDS, parse_kind
from hashfaiss.indexes.near import near_groups
from hashfaiss.indexes.rerank import rerank
from hashfaiss.indexes.tuning import Trial, Tuning, tune

__all__ = [
    "KINDS",
    "Abilities",
    "Answers",
    "CodeIndex",
    "Distinct",
    "Kind",
    "Trial",
    "Tuning",
    "near_groups",
    "parse_kind",
    "rerank",
    "tune",
]
