"""Codes from elsewhere: index packed bits with FAISS and hold its answers against the exact Hamming ranking.

python examples/codes_only.py
"""

import numpy as np

from hashfaiss import CodeIndex
from hashfaiss.codes import pack
from hashfaiss.evaluation import code_health, compare, evaluate_retrieval

rng = np.random.default_rng(0)
bits, images = 64, 20_000
centres = rng.choice([-1.0, 1.0], (10, bits))  # ten classes ...
classes = rng.integers(0, 10, images)
outputs = centres[classes] * np.where(rng.random((images, bits)) < 0.05, -1, 1)  # ... and a bit in twenty flipped
codes, labels = pack(outputs), [(str(number),) for number in classes]

queries, database = slice(0, 100), slice(100, None)
ids = np.arange(images - 100)
for kind in ("flat", "hash:b=16,flips=2"):
    index = CodeIndex(codes[database], ids, bits, kind)
    agreement = compare(index.search(codes[queries], 10), codes[queries], codes[database], ids, 10)
    print(f"{kind}: ids equal {agreement.ids_equal:.0%}, certified exact {agreement.certified_share:.0%}, ", end="")
    print(f"recall by distance {agreement.recall_by_distance:.4f}")

report = evaluate_retrieval(codes[queries], labels[queries], codes[database], labels[database], bits)
print(f"mAP {report.mean_average_precision:.4f} (ties: {report.pessimistic:.4f} to {report.optimistic:.4f})")
print(f"{code_health(codes, bits).distinct:,} distinct codes of {images:,}")
