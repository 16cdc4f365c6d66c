"""CIBHash: unsupervised hashing by contrastive learning, with an information bottleneck on the bits.

Qiu, Su, Ou, Yu and Chen, IJCAI 2021, arXiv 2109.06033.
"""

from kdhash.losses import cibhash_loss
from kdhash.methods.interface import Method
from kdhash.methods.two_views import two_views
from kdhash.models.hasher import Hasher


def cibhash(model: Hasher, *, temperature: float = 0.3, kl_weight: float = 0.001) -> Method:
    """Two views of an item are to have one code, others' codes are to differ; the batch and outputs are those of `two_views`."""

    def loss(outputs, batch):
        return cibhash_loss(
            outputs["logits_i"], outputs["logits_j"], temperature=temperature, kl_weight=kl_weight
        )

    return two_views(model, loss)
