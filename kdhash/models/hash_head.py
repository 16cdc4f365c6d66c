"""From features to codes."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class HashHead(nn.Module):
    """u = tanh(W z + b), and class logits from u.

    Returns {'codes': [batch, bits] in (-1, 1), 'unbounded': the same before tanh, 'logits': [batch, classes]}, and with
    `give_weights` 'weights' [batch, classes, bits], the classifier's, once for each example: a loss sees outputs alone.
    Source: our reconstruction of DMTH: the classifier reads the code itself, so that what is learned
    about classes is in the bits.
    """

    bits: int
    classes: int
    give_weights: bool = False

    @nn.compact
    def __call__(self, features: Float[Array, "batch width"]) -> dict[str, Array]:
        unbounded = nn.Dense(self.bits, name="hash")(features)
        codes = nn.tanh(unbounded)
        classifier = nn.Dense(self.classes, name="classifier")
        outputs = {"codes": codes, "unbounded": unbounded, "logits": classifier(codes)}
        if self.give_weights:
            weights = classifier.variables["params"]["kernel"].T
            outputs["weights"] = jnp.broadcast_to(weights, (len(features), *weights.shape))
        return outputs
