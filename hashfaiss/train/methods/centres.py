"""Hash centres: a code for each class, far from the others, for methods that pull images to them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from hashfaiss.train.methods.method import Method, sign

SEED = 0
DRAWS = 1024  # of possible centres at a time
FRUITLESS = 10  # times none of the draws was far enough from all centres, until a smaller distance will do
ATTEMPTS = 10  # to find centres that are K / 2 apart on average
MOST_DRAWN = 128  # classes: each draw is held against all centres, and of more the linear code is the better one

# Primitive polynomials over GF(2) by degree, bit i the coefficient of x^i: x generates the field's other elements.
PRIMITIVE = (0, 0b11, 0b111, 0b1011, 0b10011, 0b100101, 0b1000011, 0b10000011, 0b100011101, 0b1000010001, 0b10000001001)


class TargetMethod(Method):
    """A method that pulls each image's outputs to the signs of a target.

    Attributes:
        centres: ±1 (classes, K), see `hash_centres`.
        tie: ±1 (K,), the bits of targets that several labels leave undecided.
    """

    centres: Tensor
    tie: Tensor

    def __init__(self, labels: Tensor, bits: int) -> None:
        super().__init__(labels, bits)
        generator = torch.Generator().manual_seed(SEED)
        self.register_buffer("tie", sign(torch.rand(bits, generator=generator) - 0.5))
        self.register_buffer("centres", hash_centres(labels.shape[1], bits, generator))

    def targets(self, indices: Tensor) -> Tensor:
        """Targets ±1 (n, K) of the training images `indices` (n,): the sign of the sum of their classes' centres.

        Where the sum is 0, and for images without a label, the bits of one random vector, the same for all.
        """
        sums = self.labels[indices] @ self.centres
        return torch.where(sums == 0, self.tie, sums.sign())


def hash_centres(classes: int, bits: int, generator: torch.Generator) -> Tensor:
    """Centres ±1 (classes, K), far from each other.

    Where K is a power of two, up to K classes get rows of the Hadamard matrix H of order K, up to 2K rows of H and -H
    (Yuan et al. 2020), so that any two differ in K/2 bits or more. Else they are words of a linear code or random
    vectors, whichever are farther apart: see `linear_code` and `random_centres`.
    """
    if classes <= 2 * bits and bits & (bits - 1) == 0:
        matrix = torch.ones(1, 1)
        while len(matrix) < bits:
            matrix = torch.cat((torch.cat((matrix, matrix), dim=1), torch.cat((matrix, -matrix), dim=1)))
        return torch.cat((matrix, -matrix))[:classes].clone()
    code = linear_code(classes, bits)
    if not 1 < classes <= MOST_DRAWN:
        return code
    drawn = random_centres(classes, bits, generator)
    return drawn if least_distance(drawn) > least_distance(code) else code


def linear_code(classes: int, bits: int) -> Tensor:
    """The words ±1 (classes, K) of a linear code of ceil(log2 classes) dimensions; no search.

    A word has, for each x of GF(2^m) in the order 0, 1, a, a², ... (a primitive, 2^m the least power from K up; the
    first K columns), the bit e + Tr(b_1 x) + Tr(b_2 x^s) + Tr(b_3 x^t) + ...: constants first, then the linear words,
    then those of s = 2^(m/2) + 1 where m is even, whose quadratic forms are bent (Kerdock's, the dual of an extended
    BCH code), then s = 3, 5, 9, ... and higher exponents, by the number of ones in their binary form. So the first
    2^(m+1) words are a Reed-Muller code of order 1, with a distance of 2^(m-1), and all of exponents of one or two ones
    that of order 2 (MacWilliams and Sloane, chapters 13 and 15). With more classes than there are codes, codes repeat.
    """
    rows: list[Tensor] = []
    basis: list[int] = []
    for row in _rows(bits):
        if len(rows) == min(max(classes - 1, 0).bit_length(), bits):
            break
        value = int("".join(map(str, row.tolist())), 2)
        for known in basis:
            value = min(value, value ^ known)
        if value:  # it is no sum of those before
            basis.append(value)
            rows.append(row)
    words = torch.zeros(1, bits, dtype=torch.uint8)
    for row in rows:
        words = torch.cat((words, words ^ row))
    return 1 - 2.0 * words[torch.arange(classes) % len(words)]


def linear_distance(classes: int, bits: int) -> int:
    """The least distance of any two words of `linear_code`: of a linear code, the least weight."""
    if classes < 2:
        return bits
    code = linear_code(1 << (classes - 1).bit_length(), bits)  # all of them are differences of the first `classes`
    return int((bits - code[1:] @ code[0]).min() / 2)


def _rows(bits: int) -> Iterator[Tensor]:
    """Words to add, uint8 (K,), in the order of `linear_code`; together they span all of K dimensions."""
    m = max(1, (bits - 1).bit_length())
    order = (1 << m) - 1
    powers = [1]
    for _ in range(order - 1):
        doubled = powers[-1] << 1
        powers.append(doubled ^ PRIMITIVE[m] if doubled >> m else doubled)
    trace = []
    for exponent in range(order):
        total = 0
        for step in range(m):
            total ^= powers[(exponent << step) % order]
        trace.append(total)  # 0 or 1
    traces = torch.tensor(trace, dtype=torch.uint8)
    yield torch.ones(bits, dtype=torch.uint8)
    half = (1 << (m // 2)) + 1 if m % 2 == 0 else 0
    leaders = {min((power << step) % order or order for step in range(m)) for power in range(1, order + 1)}
    for power in sorted(leaders, key=lambda power: (power.bit_count(), power != half, power)):
        for shift in range(m):
            nonzero = traces[(shift + power * torch.arange(order)) % order]
            yield torch.cat((torch.zeros(1, dtype=torch.uint8), nonzero))[:bits]


def least_distance(centres: Tensor) -> int:
    """The least Hamming distance of any two of some centres ±1 (classes, K), 2 or more."""
    products = (centres @ centres.T).fill_diagonal_(-math.inf)
    return int((centres.shape[1] - products.max()) / 2)


def random_centres(classes: int, bits: int, generator: torch.Generator) -> Tensor:
    """Random centres ±1 (classes, K), each half +1, any two more than K/4 bits apart, all K/2 or more on average.

    CSQ's conditions; but where there are not (or are hardly) that many, the least distance is given up bit by bit, and
    after ATTEMPTS the average.
    """
    for _ in range(ATTEMPTS):
        centres = _draw_centres(classes, bits, generator)
        # The inner products of all pairs sum to half of |sum of all|² - classes * K, and distance is (K - product) / 2.
        if centres.sum(dim=0).square().sum() <= classes * bits:
            break
    return centres


def _draw_centres(classes: int, bits: int, generator: torch.Generator) -> Tensor:
    centres = torch.empty(0, bits)
    least, fruitless = bits // 4, 0
    while len(centres) < classes:
        drawn = -torch.ones(DRAWS, bits)
        drawn.scatter_(1, torch.rand(DRAWS, bits, generator=generator).argsort(dim=1)[:, : bits // 2], 1.0)
        drawn = drawn[((bits - drawn @ centres.T) / 2 > least).all(dim=1)]
        # Of those, any that is too near an earlier one goes too.
        near = ((bits - drawn @ drawn.T) / 2 <= least).tril(diagonal=-1)
        drawn = drawn[~near.any(dim=1)]
        centres = torch.cat((centres, drawn))[:classes]
        fruitless = 0 if len(drawn) else fruitless + 1
        if fruitless == FRUITLESS:
            least, fruitless = least - 1, 0
    return centres
