"""Unsupervised GreedyHash: codes keep the cosines between features. Su, Zhang, Han and Tian, NeurIPS 2018, section 3.3."""

from kdhash.losses.unsupervised import greedyhash_unsupervised
from kdhash.methods.interface import Method
from kdhash.methods.two_views import two_views
from kdhash.models.hasher import Hasher


def greedyhash(model: Hasher, *, quantization: float = 0.1) -> Method:
    """Over pairs of a batch, the cosine of codes is to be that of the features; the mean of both views. The batch and outputs
    are those of `two_views`."""

    def loss(outputs, batch):
        views = [
            greedyhash_unsupervised(
                outputs[f"logits_{view}"], outputs[f"features_{view}"], quantization_weight=quantization
            )
            for view in "ij"
        ]
        value = sum(views) / 2
        return value, {"similarity": value}

    return two_views(model, loss)
