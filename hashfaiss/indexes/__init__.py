"""FAISS binary indexes over distinct codes, with answers in (distance, id) order that say whether they are exact.

    CodeIndex     codes and ids → answers; the one class the rest of hashfaiss searches with, and others may
    Answers       ids and distances of each query, without padding, and whether they are certified exact
    near_groups   images whose codes lie near each other; near_reference: near some of them
    Parts         codes that lie in several places, asked as one CodeIndex is
    rerank        orders candidates by the query's real outputs
    tune          measures kinds on the codes at hand and chooses one
    KINDS         the kinds of FAISS index there are, and what each can do

This room knows codes, ids and FAISS; it imports no torch.
"""

import os

import faiss

from hashfaiss.indexes.answers import Answers
from hashfaiss.indexes.beside import changes
from hashfaiss.indexes.code_index import CodeIndex
from hashfaiss.indexes.distinct import Distinct
from hashfaiss.indexes.kind import Abilities, Kind
from hashfaiss.indexes.kinds import KINDS, parse_kind
from hashfaiss.indexes.near import near_groups, near_reference
from hashfaiss.indexes.parts import Parts, Together
from hashfaiss.indexes.rerank import nearest_by_outputs, rerank
from hashfaiss.indexes.trials import Trial
from hashfaiss.indexes.trust import Trust
from hashfaiss.indexes.tuning import Tuning, tune

if hasattr(os, "register_at_fork"):  # OpenMP's threads do not survive a fork: a child that waits for them hangs
    os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))

__all__ = [
    "KINDS",
    "Abilities",
    "Answers",
    "CodeIndex",
    "Distinct",
    "Kind",
    "Parts",
    "Together",
    "Trial",
    "Trust",
    "Tuning",
    "changes",
    "near_groups",
    "near_reference",
    "nearest_by_outputs",
    "parse_kind",
    "rerank",
    "tune",
]
