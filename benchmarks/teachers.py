"""Pictures a second of frozen teachers, kdhash on JAX against PyTorch, with the same weights in the same run.

    python benchmarks/teachers.py --modes eager                         # ResNet-50 and ViT-B/16, float32, 224 pixels
    python benchmarks/teachers.py --dtype bfloat16 --batch 256 --json teachers_gpu.json     # on an accelerator

Needs the extra 'oracle' (PyTorch, timm). timm makes each network with random weights; kdhash reads its state dict. A row whose
logits are further apart than a tenth of the largest one (`apart`) fails. Both sides take normalised pictures that lie on the
device already, use the same cores, and take turns, so that a busy machine slows both. kdhash divides a batch over all devices;
on a CPU `--host-devices` splits it in so many. PyTorch runs in `--dtype` throughout, channels-last. `of_matmul`: the rate of
the network's multiply-adds (twice as many FLOPs) over that of a matrix product measured in the same run. `--attention xla cudnn`
gives transformers a second row, with cuDNN's fused attention, which JAX takes on a GPU if told to and kdhash does not ask for.
"""

import argparse
import os
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from measure import Record, Side, ceilings, device_options, first_line, ratio, set_devices, take_turns

NETWORKS = {"resnet50": 4.1, "vit_base_patch16_224": 17.6}  # GMAC of a picture of 224 pixels
MODES = {"eager": None, "compile": "default", "autotune": "max-autotune"}
OPERATORS: list[Any] = []
APART = 0.1  # of the largest logit, which bfloat16 moves by a hundredth or two


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


def torch_side(net: Any, pictures: np.ndarray, dtype: str, mode: str) -> tuple[Side, Any]:
    """Forwards of a network, and its logits."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = net.to(device, getattr(torch, dtype)).to(memory_format=torch.channels_last)
    inputs = torch.from_numpy(pictures.transpose(0, 3, 1, 2)).to(device, getattr(torch, dtype))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    forward = net if mode == "eager" else torch.compile(net, mode=MODES[mode])

    def run(calls: int) -> None:
        with torch.inference_mode():
            for _ in range(calls):
                forward(inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    def logits() -> np.ndarray:
        with torch.inference_mode():
            return forward(inputs).float().cpu().numpy()

    return run, logits


def jax_side(
    name: str, state: dict[str, np.ndarray], pictures: np.ndarray, dtype: str, attention: str
) -> tuple[Side, Any]:
    """The same network by kdhash, over all devices; compiled."""
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
    attend = partial(jax.nn.dot_product_attention, implementation=attention)
    with mock.patch("jax.nn.dot_product_attention", attend):
        forward = (
            jax.jit(lambda variables, inputs: net.apply(variables, inputs)["logits"])
            .lower(variables, inputs)
            .compile()
        )

    def run(calls: int) -> None:
        for _ in range(calls):
            done = forward(variables, inputs)
        done.block_until_ready()

    return run, lambda: np.asarray(forward(variables, inputs))


def torch_sides(
    net: Any, pictures: np.ndarray, args: argparse.Namespace
) -> tuple[dict[str, Side], Any, dict[str, str]]:
    """PyTorch's sides by mode, compiled; their logits; and of modes that failed what to say in a row."""
    sides, expected, failed = {}, None, {}
    for mode in args.modes:
        try:
            side, logits = torch_side(net, pictures, args.dtype, mode)
            expected = logits()  # compiles
            sides[mode] = side
        except Exception as error:  # the others are still wanted
            failed[f"{mode}_failed"] = first_line(error)
    return sides, expected, failed


def network_rows(
    name: str, pictures: np.ndarray, args: argparse.Namespace, record: Record, rates: dict[str, float]
) -> None:
    """A row for each form of attention; of networks without it one."""
    net = torch_network(name)
    state = {key: tensor.numpy().copy() for key, tensor in net.state_dict().items()}
    sides, expected, failed = torch_sides(net, pictures, args)
    flops = 2e9 * NETWORKS[name] * args.batch * (args.size / 224) ** 2
    transformer = name.startswith("vit")
    for attention in args.attention if transformer else ["xla"]:
        row: dict[str, Any] = {"network": name, "dtype": args.dtype, "pictures": args.batch}
        row |= ({"attention": attention} if transformer else {}) | failed
        try:
            ours, logits = jax_side(name, state, pictures, args.dtype, attention)
            if expected is not None:
                row["apart"] = float(np.abs(logits() - expected).max() / np.abs(expected).max())
                if not row["apart"] < APART:
                    raise ValueError(f"the logits are {row['apart']:.2g} of the largest one apart")
            times = take_turns({"kdhash": ours, **sides}, rounds=args.rounds, seconds=args.seconds)
        except Exception as error:  # cuDNN's attention is there for some sizes and GPUs only
            record.add(**row, failed=first_line(error))
            continue
        ms = times["kdhash"]["ms"]
        record.add(
            **row,
            kdhash_ms=ms,
            kdhash_per_s=1e3 * args.batch / ms,
            **{f"{mode}_ms": times[mode]["ms"] for mode in sides},
            **{f"ratio_{mode}": ratio(times, mode, "kdhash") for mode in sides},
            of_matmul=1e3 * flops / ms / rates[args.dtype],
            rounds={side: turns["rounds"] for side, turns in times.items()},
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager", "compile"])
    parser.add_argument("--attention", nargs="+", choices=("xla", "cudnn"), default=["xla"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each side in each round, at least")
    device_options(parser)
    args = parser.parse_args()
    set_devices(args)
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    rates = ceilings()
    record = Record(args.json, ceilings=rates)
    pictures = np.random.default_rng(0).normal(size=(args.batch, args.size, args.size, 3)).astype(np.float32)
    for name in args.networks:
        network_rows(name, pictures, args, record, rates)


if __name__ == "__main__":
    main()
