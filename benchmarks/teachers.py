"""Pictures a second of frozen teachers, kdhash on JAX against PyTorch, with the same weights in the same run.

    python benchmarks/teachers.py                              # ResNet-50 and ViT-B/16, float32, 224 pixels
    python benchmarks/teachers.py --dtype bfloat16 --batch 256 --compile     # on an accelerator

Needs the extra 'oracle' (PyTorch, timm). timm makes each network with random weights; kdhash reads its state dict, and
the outputs of both are compared first. Both sides take normalised pictures that lie on the device already, use the
same cores, and take turns, so that a busy machine slows both. kdhash divides a batch over all devices; on a CPU
`--host-devices` splits it in so many.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NETWORKS = ["resnet50", "vit_base_patch16_224"]
OPERATORS: list[Any] = []


def torch_network(name: str) -> Any:
    """timm's network with random weights (its attention is PyTorch's fused kernel)."""
    import torch

    try:
        import torchvision  # noqa: F401  (timm imports it)
    except RuntimeError:
        # A wheel for CUDA beside a CPU torch: declare the operators at which its import stops; no network needs them.
        OPERATORS.append(torch.library.Library("torchvision", "DEF"))  # lives as long as somebody holds it
        for operator in ("nms", "qnms"):
            OPERATORS[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    return timm.create_model(name, pretrained=False).eval()


def torch_side(net: Any, pictures: np.ndarray, dtype: str, compiled: bool) -> Callable[[], np.ndarray]:
    """The forward of a network, eager or by torch.compile; returns its logits when they are there."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = net.to(device, getattr(torch, dtype)).to(memory_format=torch.channels_last)
    inputs = torch.from_numpy(pictures.transpose(0, 3, 1, 2)).to(device, getattr(torch, dtype))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(net, mode="max-autotune") if compiled else net

    def run() -> np.ndarray:
        with torch.inference_mode():
            return forward(inputs).float().cpu().numpy()

    return run


def jax_side(
    name: str, state: dict[str, np.ndarray], pictures: np.ndarray, dtype: str
) -> Callable[[], np.ndarray]:
    """The same network by kdhash, over all devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from kdhash.models.backbones import make_backbone
    from kdhash.teachers.convert import convert
    from kdhash.teachers.families import FAMILIES

    family = next(family for family in FAMILIES.values() if name in family.variants)
    sizes, dialect = (
        family.variants[name].sizes,
        family.dialects.get("timm", family.dialects.get("torchvision")),
    )
    net = make_backbone(family.arch, classes=1000, dtype=getattr(jnp, dtype), **sizes)
    template = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.asarray(pictures[:1])))
    variables = convert(dialect.weights(state), dialect.names(**sizes), template, source=name)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    inputs = jax.device_put(pictures, NamedSharding(mesh, PartitionSpec("data")))
    forward = jax.jit(lambda variables, inputs: net.apply(variables, inputs)["logits"])
    return lambda: np.asarray(forward(variables, inputs))


def seconds(function: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=1, help="forwards a round; more on a fast machine")
    parser.add_argument("--threads", type=int, default=0, help="cores both sides may use; 0: all")
    parser.add_argument("--host-devices", type=int, default=1, help="parts that JAX makes of a CPU")
    parser.add_argument("--compile", action="store_true", help="PyTorch by torch.compile")
    args = parser.parse_args()

    # Before either library starts its threads.
    if args.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    if args.host_devices > 1:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.host_devices}"
        os.environ.setdefault("PJRT_NPROC", str(2 * args.host_devices))
    import jax
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    print(
        f"{jax.default_backend()}, {jax.device_count()} device(s), {torch.get_num_threads()} core(s); {args.dtype}, "
        f"batches of {args.batch} pictures of {args.size} pixels; jax {jax.__version__}, torch {torch.__version__}"
        f"{' compiled' if args.compile else ''}"
    )
    pictures = np.random.default_rng(0).normal(size=(args.batch, args.size, args.size, 3)).astype(np.float32)
    for name in args.networks:
        net = torch_network(name)
        state = {key: tensor.numpy().copy() for key, tensor in net.state_dict().items()}
        ours, theirs = (
            jax_side(name, state, pictures, args.dtype),
            torch_side(net, pictures, args.dtype, args.compile),
        )
        expected, outputs = theirs(), ours()  # compiles both
        apart = np.abs(outputs - expected).max() / np.abs(expected).max()
        pairs = [(seconds(theirs, args.calls), seconds(ours, args.calls)) for _ in range(args.rounds)]
        torch_rate, our_rate = (args.batch / statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = sorted(slow / quick for slow, quick in pairs)
        print(
            f"{name}: PyTorch {torch_rate:,.1f}, kdhash {our_rate:,.1f} pictures/s; ratio {statistics.median(ratios):.2f} "
            f"(median of {args.rounds} rounds, {ratios[0]:.2f} to {ratios[-1]:.2f}); logits {apart:.1e} apart, relative"
        )


if __name__ == "__main__":
    main()
