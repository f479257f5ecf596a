"""What the best epoch is chosen by.

A validation split of the training images by default: nothing of the test set is seen. "on-queries" is what popular code
does, the best epoch on the test queries themselves; it is there to repeat published numbers, and says so in the tables.
"""

from __future__ import annotations

import numpy as np

from hashfaiss.codes import Codes
from hashfaiss.encoding.encoder import Encoder
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.evaluation.metrics import average_precision
from hashfaiss.evaluation.neighbours import kept_neighbours
from hashfaiss.evaluation.ranking import Database
from hashfaiss.images.labels import Labels, labelled_files
from hashfaiss.train.data import TrainingData
from hashfaiss.train.settings import Settings
from hashfaiss.train.validation import encode_set, leave_one_out_map

NEIGHBOURS = 10
FEWEST = 50  # images held out: of fewer, chance finds too many


class Selection:
    """Scores a network after an epoch; the highest score is kept."""

    def __init__(self, settings: Settings, data: TrainingData) -> None:
        self.settings, self.data = settings, data

    @property
    def measure(self) -> str:
        """What `score` is, for people."""
        if self.settings.select == "on-queries":
            return "mAP of the queries"
        return "validation mAP" if self.data.classes else f"recall@{NEIGHBOURS} of the features' neighbours"

    def score(self, encoder: Encoder, codes: Codes | None = None) -> float | None:
        """From 0 to 1, or None where nothing is kept to measure it on.

        Tie-aware mAP: validation images are ranked against each other, each left out of its own ranking; where a method
        learns the database's codes itself (ADSH), they are ranked against those. Without labels, the share of each
        image's nearest by the network's real features that are among its nearest codes.

        Args:
            codes: of the validation images, where they are known already.

        Raises:
            LabelError: the lists of "on-queries" cannot be used.
        """
        held_out = self.data.validation
        if self.settings.select == "on-queries":
            return self._on_queries(encoder)
        if not len(held_out):
            return None
        if codes is None:
            codes = encode_set(encoder, held_out, self.settings.batch)
        if not self.data.classes:
            if len(held_out) < FEWEST:
                return None
            return kept_neighbours(encoder.features(held_out.images).numpy(), codes, encoder.bits, NEIGHBOURS).recall
        if encoder.learned is not None:
            database = Database(encoder.learned.codes, encoder.bits, self.data.training.names)
            return float(average_precision(*database.level_counts(codes, held_out.names)).mean())
        return leave_one_out_map(codes, encoder.bits, held_out.names)

    def _on_queries(self, encoder: Encoder) -> float:
        queries, query_labels = self._encode(encoder, self.settings.queries, learned=False)
        codes, labels = self._encode(encoder, self.settings.database, learned=True)
        counts = Database(codes, encoder.bits, labels).level_counts(queries, query_labels)
        return float(average_precision(*counts, self.settings.cutoff).mean())

    def _encode(self, encoder: Encoder, listed: str | None, learned: bool) -> tuple[Codes, list[Labels]]:
        files = labelled_files(self.settings.images, listed)
        codes, labels = [encoder.no_codes()], []
        for batch in encode_stream(encoder, (Item(file, names) for file, names in files), learned=learned):
            codes.append(batch.codes)
            labels += [item.labels for item in batch.items]
        return np.concatenate(codes), labels
