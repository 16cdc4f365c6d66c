"""PLACEHOLDER by the lead so that the river flows; the losses writer overwrites it. Keep these names."""
import jax, jax.numpy as jnp, optax
def cross_entropy(logits, labels): return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
def _cos(a, b):
    u=lambda x: x/jnp.maximum(jnp.linalg.norm(x,axis=-1,keepdims=True),1e-8)
    return u(a), u(b)
def code_distillation(s, t):
    s,t=_cos(s,jax.lax.stop_gradient(t)); return (1-(s*t).sum(-1)).mean()
def relational_distillation(s, t):
    s,t=_cos(s,jax.lax.stop_gradient(t)); return ((s@s.T-t@t.T)**2).mean()
def feature_regression(s, t): return ((s-jax.lax.stop_gradient(t))**2).mean()
def quantization(u): return ((jnp.abs(u)-1)**2).mean()
def balance(u): return (u.mean(0)**2).mean()
