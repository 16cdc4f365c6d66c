"""The training step of students, kdhash on JAX against PyTorch, on the same weights and batch in the same run.

    python benchmarks/training.py --json training_cpu.json --pictures 128 --modes eager             # one device, all cores
    python benchmarks/training.py --host-devices 8 --pictures 128 --modes eager
    python benchmarks/training.py --dtypes bfloat16 --pictures 1024 --json training_gpu.json       # on an accelerator

A step is forward, loss, backward and the update of SGD with momentum, on a batch that lies on the device: pictures of 32 pixels
and what a teacher says of them. 'dmth' is cross entropy, code and relation distillation, quantisation and balance; 'brcd' the
contrast of CIBHash and bit-mask distillation, on two views each of half as many items. kdhash's side is `make_train_step` of its
methods, without augmentation; PyTorch's is `torch_twins.py`, channels-last with fused SGD, eager and by torch.compile ('reduce':
mode reduce-overhead, CUDA graphs). bfloat16 is kdhash's field dtype and PyTorch's autocast. In float32 both multiply
convolutions in TF32 on GPUs that have it, and the losses exactly.

Before any time is taken, a row's losses of two steps from the same weights, in float32, must agree to 2 % (`apart`). `ratio_x`
is PyTorch's time over kdhash's, the median over rounds in which sides take turns; above 1 kdhash is faster. `floor` is the time
in which the device could do the step at its measured rates: 3 forward passes of FLOPs at the rate of matrix products, or 3 reads
of what convolutions read and 11 of what they write (every kernel that must see a tensor moves it once) at the bandwidth of a
copy, whichever is longer; `of_floor` is its share of kdhash's time. `--trace` keeps what the device did in each of kdhash's rows,
and adds to the row on which kinds of kernels its time went, as `kernels.py` tells them.
"""

import argparse
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from kernels import kinds, longest
from measure import Record, Side, ceilings, device_options, first_line, ratio, set_devices, take_turns

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet20": ("resnet_cifar", {"depth": 20}),
    "resnet18": ("resnet", {"depths": (2, 2, 2, 2), "block": "basic", "stem": "cifar"}),
    "mobilenet_v2": ("mobilenet_v2", {"same_padding": False, "epsilon": 1e-5}),
    "resnet8": ("resnet_cifar", {"depth": 8}),
}
MODES = {"eager": None, "compile": "default", "reduce": "reduce-overhead"}
BITS, CLASSES, CLUSTERS, SIZE = 64, 10, 20, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DMTH = {"quantization": 0.1, "balance": 0.1, "code": 2.0, "relation": 2.0}
BRCD = 5.0
APART = 0.02  # TF32 flips bits that are close to 0, and batch norm of few pictures enlarges every rounding
TRACED = 10  # steps
SGD = {"learning_rate": 1e-3, "weight_decay": 5e-4}


def make_batch(loss: str, pictures: int) -> dict[str, np.ndarray]:
    """A raw batch of the method, and for 'brcd' the arrays 'centers' and 'masks' that belong to the loss."""
    rng = np.random.default_rng(0)
    seen = rng.random((pictures, SIZE, SIZE, 3), np.float32)
    if loss == "dmth":
        labels = rng.integers(0, CLASSES, pictures).astype(np.int32)
        codes = np.tanh(rng.normal(size=(pictures, BITS))).astype(np.float32)
        return {"image": seen, "label": labels, "teacher_codes": codes}
    items = pictures // 2
    centers = rng.choice([-1.0, 1.0], (CLUSTERS, BITS)).astype(np.float32)
    cluster = rng.integers(0, CLUSTERS, items).astype(np.int32)
    flips = [rng.choice([-1.0, 1.0], (items, BITS), p=(0.1, 0.9)).astype(np.float32) for _ in "ij"]
    return {
        "view_i": seen[:items],
        "view_j": seen[items:],
        "teacher_codes_i": centers[cluster] * flips[0],
        "teacher_codes_j": centers[cluster] * flips[1],
        "cluster": cluster,
        "centers": centers,
        "masks": rng.choice([0.0, 1.0], (CLUSTERS, BITS), p=(0.3, 0.7)).astype(np.float32),
    }


class Kdhash:
    """kdhash's training step on all devices. `arrays`: its first parameters, in the order in which they are made."""

    def __init__(self, network: str, loss: str, dtype: str, raw: dict[str, np.ndarray]):
        import flax
        import jax
        import jax.numpy as jnp

        from kdhash.methods.brcd import brcd, distilled
        from kdhash.methods.cibhash import cibhash
        from kdhash.methods.dmth import LossWeights, hash_student
        from kdhash.models.hasher import Hasher
        from kdhash.training.mapping import data_mesh, make_train_step, put_batch, replicate
        from kdhash.training.state import create_state, make_optimizer

        arch, sizes = NETWORKS[network]
        common = {"arch": arch, "mean": MEAN, "std": STD, "bits": BITS, "dtype": jnp.dtype(dtype)}
        batch = {name: array for name, array in raw.items() if name not in ("centers", "masks")}
        if loss == "dmth":
            method = hash_student(sizes=sizes, classes=CLASSES, weights=LossWeights(**DMTH), **common)
        else:
            base = cibhash(Hasher(sizes=tuple(sizes.items()), **common))
            objective = brcd(jnp.asarray(raw["centers"]), jnp.asarray(raw["masks"]))
            method = distilled(base, objective, weight=BRCD)
        optimizer = make_optimizer("sgd", **SGD, warmup_steps=0, steps=10**7, clip_norm=0.0)
        mesh = data_mesh()
        order: list[Any] = []

        def create(key: Any) -> Any:
            one = {name: array[:1] for name, array in batch.items()}
            state = create_state(method, optimizer, one, 0)
            order.extend(flax.traverse_util.flatten_dict(state.params))  # jit would sort them
            return state

        self.state = replicate(jax.jit(create)(jax.random.key(0)), mesh)
        params = flax.traverse_util.flatten_dict(self.state.params)
        self.arrays = [np.asarray(params[name]) for name in order]
        self.batch = put_batch(batch, mesh)
        self.step = make_train_step(method, optimizer, seed=0, mesh=mesh)
        # steps in flight that wait for each other may starve the few threads of a divided CPU
        self.waits = jax.default_backend() == "cpu"

    def losses(self, steps: int) -> list[float]:
        taken = []
        for _ in range(steps):
            self.state, terms = self.step(self.state, self.batch)
            taken.append(float(terms["loss"]))
        return taken

    def run(self, calls: int) -> None:
        for _ in range(calls):
            self.state, terms = self.step(self.state, self.batch)
            if self.waits:
                terms["loss"].block_until_ready()
        terms["loss"].block_until_ready()


class Torch:
    """The same by PyTorch: a backbone, which rows may share, and a row's head with its loss."""

    def __init__(self, backbone: Any, loss: str, raw: dict[str, np.ndarray], arrays: list[np.ndarray]):
        import torch
        import torch_twins

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        batch = {name: torch.from_numpy(array) for name, array in raw.items()}
        if loss == "dmth":
            head = torch_twins.DmthHead(backbone.width, BITS, CLASSES, DMTH)
            pictures = batch.pop("image")
        else:
            head = torch_twins.BrcdHead(backbone.width, BITS, batch.pop("centers"), batch.pop("masks"), BRCD)
            pictures = torch.cat([batch.pop("view_i"), batch.pop("view_j")])
        batch = {
            name: tensor.to(self.device, torch.int64 if name in ("label", "cluster") else tensor.dtype)
            for name, tensor in batch.items()
        }
        pictures = pictures.permute(0, 3, 1, 2).to(self.device, memory_format=torch.channels_last)
        torch_twins.copy_weights(arrays, backbone, head)
        head.to(self.device)
        backbone.to(self.device, memory_format=torch.channels_last)
        self.backbone, self.head, self.batch, self.pictures = backbone, head, batch, pictures
        parameters = [*backbone.parameters(), *head.parameters()]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": SGD["weight_decay"]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(
            groups, lr=SGD["learning_rate"], momentum=0.9, nesterov=True, fused=True
        )

    def side(self, dtype: str, backbone: Any = None, head: Any = None) -> Side:
        """Steps that end when the device is done; `backbone` and `head` are the compiled ones, where they are."""
        import torch

        backbone = self.backbone if backbone is None else backbone
        head = self.head if head is None else head

        def run(calls: int) -> None:
            for _ in range(calls):
                self.optimizer.zero_grad(set_to_none=True)
                with torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16"):
                    features = backbone(self.pictures)
                self.loss = head(features, self.batch)
                self.loss.backward()
                self.optimizer.step()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return run


def network_rows(args: argparse.Namespace, network: str, record: Record, rates: dict[str, float]) -> None:
    """Measures all losses and dtypes of a network: one backbone in PyTorch, so that it is compiled once a dtype and mode."""
    import torch
    import torch_twins

    torch.compiler.reset()
    backbone = torch_twins.Backbone(network, MEAN, STD)
    compiled = {
        mode: torch.compile(backbone, mode=MODES[mode], dynamic=False)
        for mode in args.modes
        if mode != "eager"
    }
    for loss in args.losses:
        try:
            loss_rows(args, network, loss, backbone, compiled, record, rates)
        except Exception as error:  # such as too little memory: the other rows are still wanted
            traceback.print_exc()
            record.add(network=network, loss=loss, pictures=args.pictures, failed=first_line(error))


def loss_rows(
    args: argparse.Namespace,
    network: str,
    loss: str,
    backbone: Any,
    compiled: dict[str, Any],
    record: Record,
    rates: dict[str, float],
) -> None:
    """A row for each dtype. `compiled`: PyTorch's backbone by mode."""
    import torch
    import torch_twins

    flops, read, written = torch_twins.forward_work(backbone, SIZE)
    raw = make_batch(loss, args.pictures)
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        # in the background: XLA compiles kdhash's steps while PyTorch's are checked and compiled
        made = {
            dtype: pool.submit(first_step, network, loss, dtype, raw) for dtype in {"float32", *args.dtypes}
        }
        ours, losses, _ = made["float32"].result()
        theirs = Torch(backbone, loss, raw, ours.arrays)
        eager = theirs.side("float32")
        expected = [eager(1) or float(theirs.loss.detach()) for _ in losses]
        apart = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
        if not apart < APART:
            record.add(network=network, loss=loss, failed=f"losses {losses} in kdhash, {expected} in PyTorch")
            return
        sides: dict[str, dict[str, Side]] = {dtype: {} for dtype in args.dtypes}
        seconds: dict[str, dict[str, float]] = {dtype: {} for dtype in args.dtypes}
        for dtype in args.dtypes:
            for mode in args.modes:
                head = None if mode == "eager" else torch.compile(theirs.head, dynamic=False)
                side = theirs.side(dtype, compiled.get(mode), head)
                began = time.perf_counter()
                side(1)
                seconds[dtype][mode] = round(time.perf_counter() - began, 1)
                sides[dtype][mode] = side
        for dtype in args.dtypes:
            step, _, seconds[dtype]["kdhash"] = made[dtype].result()
            sides[dtype]["kdhash"] = step.run
    prepared = time.perf_counter() - start
    for dtype in args.dtypes:
        times = take_turns(sides[dtype], rounds=args.rounds, seconds=args.seconds)
        width = 2 if dtype == "bfloat16" else 4
        flop_ms = 3e3 * flops * args.pictures / rates[dtype]
        byte_ms = 1e3 * (3 * read + 11 * written) * width * args.pictures / rates["bandwidth"]
        ms = times["kdhash"]["ms"]
        record.add(
            network=network,
            loss=loss,
            dtype=dtype,
            pictures=args.pictures,
            kdhash_ms=ms,
            kdhash_per_s=1e3 * args.pictures / ms,
            **{f"{mode}_ms": times[mode]["ms"] for mode in args.modes},
            **{f"ratio_{mode}": ratio(times, mode, "kdhash") for mode in args.modes},
            **{
                f"cpu_ratio_{mode}": times[mode]["cpu_ms"] / times["kdhash"]["cpu_ms"]
                for mode in args.modes
                if theirs.device == "cpu"
            },
            flop_floor_ms=flop_ms,
            byte_floor_ms=byte_ms,
            of_floor=max(flop_ms, byte_ms) / ms,
            of_matmul=flop_ms / ms,
            apart=apart,
            first_step_s=seconds[dtype],
            prepared_s=round(prepared, 1),
            rounds={name: side["rounds"] for name, side in times.items()},
        )
        if args.trace:
            record.amend(**traced(sides[dtype]["kdhash"], args.trace / f"{network}-{loss}-{dtype}"))


def traced(side: Side, folder: Path) -> dict[str, Any]:
    """On which kernels the time of some steps goes, or why that cannot be told: on some machines only root may trace a GPU."""
    import jax

    try:
        with jax.profiler.trace(str(folder)):
            side(TRACED)
        return {"kernels": kinds(folder, TRACED), "longest": longest(folder, TRACED, 20)}
    except Exception as error:  # the other rows are still wanted
        return {"trace_failed": first_line(error)}


def first_step(
    network: str, loss: str, dtype: str, raw: dict[str, np.ndarray]
) -> tuple[Kdhash, list[float], float]:
    """kdhash's side after two steps, their losses, and the seconds until the first was done."""
    start = time.perf_counter()
    ours = Kdhash(network, loss, dtype, raw)
    losses = ours.losses(1)
    seconds = round(time.perf_counter() - start, 1)
    return ours, losses + ours.losses(1), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--losses", nargs="+", choices=("dmth", "brcd"), default=["dmth", "brcd"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager", "compile"])
    parser.add_argument("--pictures", type=int, default=128, help="pictures a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each side in each round")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no network is begun")
    parser.add_argument(
        "--trace", type=Path, metavar="FOLDER", help=f"trace {TRACED} steps of each row into it"
    )
    device_options(parser)
    args = parser.parse_args()
    set_devices(args)
    import torch

    start = time.perf_counter()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rates = ceilings()
    record = Record(args.json, ceilings=rates)
    for network in args.networks:
        if time.perf_counter() - start > args.budget:
            print(f"{network}: left out, the time is used up", flush=True)
            continue
        network_rows(args, network, record, rates)


if __name__ == "__main__":
    main()
