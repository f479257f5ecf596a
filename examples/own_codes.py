"""Codes from anywhere, under ids of one's own, in one file; and what FAISS already holds, with answers that are proven.

python examples/own_codes.py
"""

import faiss
import numpy as np

from hashfaiss import CodeIndex

codes = np.random.default_rng(0).integers(0, 256, (10_000, 8), dtype=np.uint8)
index = CodeIndex(bits=64)
index.add(codes, ids=np.arange(10_000) * 10)
index.remove_ids([10, 20])
index.save("mine.codes")
answers = CodeIndex.load("mine.codes").search(codes[:3], k=5, exact=True)
distances, ids = answers.padded(5)  # arrays (3, 5), as FAISS returns them
print(ids[:, 0].tolist(), distances[:, 0].tolist(), answers.exact.tolist())

theirs = faiss.IndexBinaryHash(64, 16)
theirs.add(codes)
print(CodeIndex.of(theirs).search(codes[:3], k=5, exact=True).exact.tolist())
