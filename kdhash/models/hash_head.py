"""From features to codes."""

import flax.linen as nn
from jaxtyping import Array, Float


class HashHead(nn.Module):
    """u = tanh(W z + b), and class logits from u.

    Returns {'codes': [batch, bits] in (-1, 1), 'logits': [batch, classes]}. Source: METHODS section 1 (our reconstruction
    of DMTH): the classifier reads the code itself, so that what is learned about classes is in the bits.
    """

    bits: int
    classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch width"]) -> dict[str, Array]:
        codes = nn.tanh(nn.Dense(self.bits, name="hash")(features))
        return {"codes": codes, "logits": nn.Dense(self.classes, name="classifier")(codes)}
