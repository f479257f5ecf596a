"""Groups of near codes among a million of 64 bits: seconds, and the most memory.

python examples/benchmarks/near.py
"""

import resource
import time

import numpy as np

from hashfaiss import CodeIndex
from hashfaiss.codes import pack
from hashfaiss.indexes import kernels, near_groups

CODES, CENTRES, BITS, PART = 1_000_000, 100, 64, 50_000

random = np.random.default_rng(0)
centres = random.choice([-1.0, 1.0], (CENTRES, BITS))
print("native core:", kernels.available() or "none")
for flipped in (0.05, 0.15, 0.5):
    parts = [
        pack(centres[random.integers(0, CENTRES, PART)] * np.where(random.random((PART, BITS)) < flipped, -1, 1))
        for _ in range(CODES // PART)
    ]
    index = CodeIndex(np.concatenate(parts), kind="flat")
    for radius in (1, 2, 4):
        started = time.perf_counter()
        groups = near_groups(index, radius)
        seconds, memory = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"p = {flipped}, radius {radius}: {seconds:.0f} s, {len(groups):,} groups, {memory:.0f} MB")
