"""mAP of many models; features of a backbone that several share are computed once for all of them.

    python examples/benchmarks/heads.py --images cifar10 --queries split/query.csv --database split/database.csv \
        *.pt

Models are those of `hashfaiss train`, of networks with one backbone and no attention or of a method such as itq. A line
of JSON each: bits, method, and the tie-aware mAP@ALL of the queries, with the worst and the best order of ties.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from typing import Any

import numpy as np
import torch

from hashfaiss import Encoder
from hashfaiss.codes import pack_tensor
from hashfaiss.encoding.items import Item
from hashfaiss.encoding.pipeline import encode_stream
from hashfaiss.evaluation import evaluate_retrieval
from hashfaiss.images.labels import labelled_files


def features_of(encoder: Encoder, images: str, listed: str) -> tuple[torch.Tensor, list[tuple[str, ...]]]:
    features, labels = [], []
    items = (Item(file, names) for file, names in labelled_files(images, listed))
    for batch in encode_stream(encoder, items, features=True):
        features.append(batch.features)
        labels += [item.labels for item in batch.items]
    return torch.from_numpy(np.concatenate(features)), labels


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("images", "queries", "database"):
        options.add_argument(f"--{name}", required=True)
    options.add_argument("models", nargs="+")
    given = options.parse_args()
    sides: dict[tuple[Any, ...], list[tuple[torch.Tensor, list[tuple[str, ...]]]]] = {}
    for model in given.models:
        encoder = Encoder.load(model)
        network: Any = encoder.network
        digest = hashlib.sha256()
        for value in network.backbone.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
        key = (encoder.preprocessing, digest.digest())
        if key not in sides:
            sides[key] = [features_of(encoder, given.images, listed) for listed in (given.queries, given.database)]
        head = network.hash_features if hasattr(network, "hash_features") else network.head
        with torch.inference_mode():
            (queries, query_labels), (database, labels) = [
                (pack_tensor(head(features)).numpy(), names) for features, names in sides[key]
            ]
        found = evaluate_retrieval(queries, query_labels, database, labels, encoder.bits)
        row = {
            "model": model,
            "method": encoder.method,
            "bits": encoder.bits,
            "map": round(found.mean_average_precision, 4),
            "ties": [round(found.pessimistic, 4), round(found.optimistic, 4)],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
