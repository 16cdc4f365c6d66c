"""Bi-half: every bit is +1 for half of a batch, and codes keep the cosines between features.

Li and van Gemert, AAAI 2021, arXiv 2012.12334.
"""

from kdhash.losses import unsupervised
from kdhash.methods.interface import Method
from kdhash.methods.two_views import two_views
from kdhash.models.hasher import Hasher


def bihalf(model: Hasher, *, gamma: float = 6.0) -> Method:
    """The loss of the mean of both views; the batch and outputs are those of `two_views`. `encode` gives plain signs: halves
    are of a training batch alone."""

    def loss(outputs, batch):
        views = [
            unsupervised.bihalf(outputs[f"logits_{view}"], outputs[f"features_{view}"], gamma=gamma)
            for view in "ij"
        ]
        value = sum(views) / 2
        return value, {"similarity": value}

    return two_views(model, loss)
