"""A method of one's own: the pair likelihood with a margin, which hashfaiss finds by an entry point.

In the package's pyproject.toml:

    [project.entry-points."hashfaiss.methods"]
    margin-pairs = "own_method:MarginPairs"

Installed, `hashfaiss methods` lists it, and so does any command that takes a method:

    hashfaiss train --method margin-pairs --images photos/ --out mine.pt

and this, in a test, holds it to what every method must do:

    from hashfaiss.testing import MethodTests

    class TestMarginPairs(MethodTests):
        name = "margin-pairs"
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from hashfaiss.train.methods.method import About, Method, check_weight, similarity


class MarginPairs(Method):
    """L = mean softplus(m - s_ij theta_ij), theta_ij = <tanh u_i, tanh u_j> / 2; s_ij is 1 for shared labels, or -1.

    Args:
        labels, bits: as for `Method`.
        margin: m.
    """

    about = About(
        title="Pairs with a margin",
        paper="an example",
        year=2026,
        supervision="pairs",
        multi_label=True,
        loss="pairwise likelihood with a margin",
    )

    def __init__(self, labels: Tensor, bits: int, margin: float = 1.0) -> None:
        super().__init__(labels, bits)
        self.margin = check_weight("margin", margin)

    def forward(self, outputs: Tensor, indices: Tensor) -> Tensor:
        """Raw outputs u (n, K) of the training images `indices` (n,) → the loss, a scalar."""
        activated = outputs.tanh()
        labels = self.labels[indices]
        signs = 2 * similarity(labels, labels) - 1
        return softplus(self.margin - signs * (activated @ activated.T) / 2).mean()
