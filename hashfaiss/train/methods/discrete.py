"""Discrete cyclic coordinate descent (DCC), the step in which methods solve for codes of ±1 one bit at a time.

All of them (SDH, DSDH, DFH, ADSH) have the same problem with other matrices in it: over X in {-1, +1} (n, m), minimise

    tr(X H X^T) - 2 <X, Q>,  with H (m, m) symmetric and Q (n, m).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hashfaiss.train.methods.method import sign


def coordinate_descent(codes: Tensor, coupling: Tensor, linear: Tensor) -> Tensor:
    """One sweep over the columns, each set to its best given the others: x_k = sign(q_k - X_{-k} H_{-k,k}).

    The objective never rises. (Shen et al., Supervised Discrete Hashing, CVPR 2015.)

    Args:
        codes: X (n, m) of ±1 to start from, left as it is. Columns of 0 are not yet solved and have no say.
        coupling: H. Its diagonal has no part in it, since x_k^2 = 1.
        linear: Q (n, m).

    Returns:
        X (n, m) of ±1.
    """
    codes = codes.clone()
    others = coupling - torch.diag(coupling.diagonal())
    for column in range(codes.shape[1]):
        codes[:, column] = sign(linear[:, column] - codes @ others[:, column])
    return codes
