"""Evaluation of codes: exact Hamming ranking, metrics, index-against-exact agreement, neighbours, health, plots.

The room works on plain arrays of codes and labels. It imports neither torch nor FAISS, so that what it says about an
index does not come from that index; matplotlib is imported when something is drawn.
"""

from hashfaiss.evaluation.agreement import Agreement, Answers, compare
from hashfaiss.evaluation.health import CodeHealth, code_health
from hashfaiss.evaluation.metrics import (
    average_precision,
    average_precision_bounds,
    average_precision_ranked,
    chance_of_relevant,
    precision_at,
    precision_recall_by_radius,
    precision_recall_by_rank,
    precision_within_radius,
    recall_at,
)
from hashfaiss.evaluation.neighbours import NeighbourReport, kept_neighbours
from hashfaiss.evaluation.plots import plot_health, plot_neighbours, plot_precision_recall, plot_precision_recall_at
from hashfaiss.evaluation.ranking import Database, LabelSets, exact_ranking
from hashfaiss.evaluation.retrieval import RetrievalReport, evaluate_retrieval

__all__ = [
    "Agreement",
    "Answers",
    "CodeHealth",
    "Database",
    "LabelSets",
    "NeighbourReport",
    "RetrievalReport",
    "average_precision",
    "average_precision_bounds",
    "average_precision_ranked",
    "chance_of_relevant",
    "code_health",
    "compare",
    "evaluate_retrieval",
    "exact_ranking",
    "kept_neighbours",
    "plot_health",
    "plot_neighbours",
    "plot_precision_recall",
    "plot_precision_recall_at",
    "precision_at",
    "precision_recall_by_radius",
    "precision_recall_by_rank",
    "precision_within_radius",
    "recall_at",
]
