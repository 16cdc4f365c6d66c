"""Losses over all pairs of a large batch, kdhash on JAX against PyTorch and against what the device could do.

    python benchmarks/losses.py --items 512 --json losses_cpu.json --modes eager
    python benchmarks/losses.py --items 2048 8192 --json losses_gpu.json                          # on an accelerator

Codes of 64 bits in float32; a call is the loss (`forward`) or the loss and its gradient (`gradient`). `floor` is the time in
which the device could do it at its measured rates: the FLOPs of the matrix products (of which a gradient needs three times as
many as a value) at the rate of exact products, or the least bytes of a form that keeps no matrix of pairs (the codes, read once
and their gradient written once) at the bandwidth of a copy, whichever is longer. `passes` is how often a matrix of pairs could
have been read or written in the time that was taken: what fusion leaves to gain. `ratio_x` is PyTorch's time over kdhash's,
median over rounds in which sides take turns; only of losses that are short to write there.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from measure import Record, Side, ceilings, device_options, first_line, ratio, set_devices, take_turns

BITS, CLASSES, CLUSTERS = 64, 100, 20


class Loss(NamedTuple):
    """ours(data) -> loss of data['a'] (and 'b'); theirs(data, twins) the same by PyTorch. `products`: matrix products of
    items times items times bits in a value, counted where both sides are differentiated; `cubic`: with a third axis of items.
    """

    ours: Callable[[dict[str, Any]], Any]
    theirs: Callable[[dict[str, Any], Any], Any] | None = None
    products: float = 1.0
    rows: int = 1  # how many times the items its matrix has rows and columns
    cubic: bool = False


def losses() -> dict[str, Loss]:
    import jax

    from kdhash import losses as k

    centers = "centers"
    return {
        "nt_xent": Loss(
            lambda d: k.nt_xent(d["a"], d["b"], temperature=0.3),
            lambda d, t: t.nt_xent(d["a"], d["b"]),
            4,
            2,
        ),
        "relational_distillation": Loss(
            lambda d: k.relational_distillation(d["a"], d["teacher"]),
            lambda d, t: t.relational(d["a"], d["teacher"]),
            2,
        ),
        "brcd": Loss(
            lambda d: k.brcd_distillation(
                d["a"], d["teacher"], d["other"], d["cluster"], d[centers], masks=d["masks"]
            ),
            lambda d, t: t.brcd(
                t.straight_through(d["a"].sigmoid() - 0.5),
                d["teacher"],
                d["other"],
                d["cluster"],
                d[centers],
                d["masks"],
            ),
            4,
            2,
        ),
        "similarity_likelihood": Loss(
            lambda d: k.similarity_likelihood(d["a"], d["b"], d["similarity"]),
            lambda d, t: t.similarity_likelihood(d["a"], d["b"], d["similarity"]),
        ),
        "rkd_distance": Loss(
            lambda d: k.rkd_distance(d["a"], d["teacher"]),
            lambda d, t: t.rkd_distance(d["a"], d["teacher"]),
            2,
        ),
        "rkd_angle": Loss(lambda d: k.rkd_angle(d["a"], d["teacher"]), None, 2, cubic=True),
        "info_nce": Loss(lambda d: k.info_nce(d["a"], d["teacher"], temperature=0.3)),
        "similarity_preserving": Loss(lambda d: k.similarity_preserving(d["a"], d["teacher"]), None, 2),
        "pkt": Loss(lambda d: k.pkt(d["a"], d["teacher"]), None, 2),
        "crd": Loss(lambda d: k.crd(d["a"], d["teacher"], temperature=0.3)),
        "dpsh": Loss(lambda d: k.dpsh(d["a"], d["labels"])),
        "hashnet": Loss(lambda d: k.hashnet(d["a"], d["labels"])),
        "kdcmh_teacher_loss": Loss(
            lambda d: k.kdcmh_teacher_loss(d["a"], d["b"], d["similarity"])[0], None, 3
        ),
        "kdcmh_student_loss": Loss(lambda d: k.kdcmh_student_loss(d["a"], d["b"], d["similarity"])[0]),
        "ucch_loss": Loss(lambda d: k.ucch_loss(d["a"], d["b"])[0], None, 3),
        "bihalf_codes": Loss(lambda d: jax.numpy.mean(k.bihalf_codes(d["a"]) * d["teacher"]), None, 0),
    }


def make_data(items: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    centers = rng.choice([-1.0, 1.0], (CLUSTERS, BITS)).astype(np.float32)
    cluster = rng.integers(0, CLUSTERS, items).astype(np.int32)
    flips = [rng.choice([-1.0, 1.0], (items, BITS), p=(0.1, 0.9)).astype(np.float32) for _ in "ij"]
    a, b = (np.tanh(rng.normal(size=(items, BITS))).astype(np.float32) for _ in "ab")
    teacher, other = (centers[cluster] * flip for flip in flips)
    return {
        "a": a,
        "b": b,
        "teacher": teacher,
        "other": other,
        "cluster": cluster,
        "centers": centers,
        "masks": rng.choice([0.0, 1.0], (CLUSTERS, BITS), p=(0.3, 0.7)).astype(np.float32),
        "labels": np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, items)],
        "similarity": (0.5 + teacher @ other.T / (2 * BITS)).astype(np.float32),
    }


def compiled(loss: Loss, data: dict[str, Any], gradient: bool) -> Callable[..., Any]:
    """kdhash's loss of (codes, data), compiled; of the codes also the gradient."""
    import jax

    def value(codes: dict[str, Any], rest: dict[str, Any]) -> Any:
        return loss.ours(rest | codes)

    function = jax.jit(jax.value_and_grad(value) if gradient else value)
    return function.lower({name: data[name] for name in ("a", "b")}, data).compile()


def our_side(call: Callable[..., Any], data: dict[str, Any]) -> tuple[Side, Callable[[], float]]:
    import jax

    codes = {name: data[name] for name in ("a", "b")}

    def run(calls: int) -> None:
        for _ in range(calls):
            done = call(codes, data)
        jax.block_until_ready(done)

    return run, lambda: float(jax.tree.leaves(call(codes, data))[0])


def their_side(
    loss: Loss, data: dict[str, Any], gradient: bool, mode: str
) -> tuple[Side, Callable[[], float]]:
    import torch
    import torch_twins

    assert loss.theirs is not None
    theirs = loss.theirs
    codes = {name: data[name].clone().requires_grad_(gradient) for name in ("a", "b")}

    def value(codes: dict[str, Any]) -> Any:
        return theirs(data | codes, torch_twins)

    if mode == "compile":
        torch.compiler.reset()  # all are `value` to it, and after eight forms of one function it compiles no more
    call = torch.compile(value, dynamic=False) if mode == "compile" else value

    def run(calls: int) -> None:
        for _ in range(calls):
            with torch.set_grad_enabled(gradient):
                done = call(codes)
            if gradient:
                torch.autograd.grad(done, list(codes.values()), allow_unused=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run, lambda: float(call(codes).detach())


def measure(
    name: str,
    loss: Loss,
    gradient: bool,
    raw: dict[str, np.ndarray],
    args: Any,
    rates: dict[str, float],
) -> dict[str, Any]:
    import jax
    import torch

    items = len(raw["a"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours, value = our_side(compiled(loss, raw, gradient), jax.device_put(raw))
    sides, apart = {"kdhash": ours}, {}
    expected = value()
    if loss.theirs is not None:
        tensors = {key: torch.from_numpy(array).to(device) for key, array in raw.items()}
        tensors["cluster"] = tensors["cluster"].long()
        for mode in args.modes:
            sides[mode], value = their_side(loss, tensors, gradient, mode)
            apart[f"apart_{mode}"] = abs(value() / expected - 1)
    times = take_turns(sides, rounds=args.rounds, seconds=args.seconds)
    pairs = float(items) ** 2
    flops = 2 * loss.products * pairs * BITS * (items if loss.cubic else 1) * (3 if gradient else 1)
    least = raw["a"].nbytes * (4 if gradient else 2)
    if "similarity" in name or "kdcmh" in name:
        least += raw["similarity"].nbytes
    ms = times["kdhash"]["ms"]
    matrix = 4 * pairs * loss.rows**2 * (items if loss.cubic else 1)
    floor = 1e3 * max(flops / rates["exact"], least / rates["bandwidth"])
    return {
        "kdhash_ms": ms,
        **{f"{mode}_ms": side["ms"] for mode, side in times.items() if mode != "kdhash"},
        **{f"ratio_{mode}": ratio(times, mode, "kdhash") for mode in times if mode != "kdhash"},
        "floor_ms": floor,
        "of_floor": floor / ms,
        "passes": 1e-3 * ms * rates["bandwidth"] / matrix,
        **apart,
    }


def main() -> None:
    known = list(losses())
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", nargs="+", choices=known, default=known)
    parser.add_argument("--items", type=int, nargs="+", default=[512])
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=["eager", "compile"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each side in each round")
    parser.add_argument("--cubic-items", type=int, default=2048, help="most items of a loss over triples")
    device_options(parser)
    args = parser.parse_args()
    set_devices(args)
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rates = ceilings()
    record = Record(args.json, ceilings=rates, bits=BITS)
    for items in args.items:
        raw = make_data(items)
        wanted = [name for name in args.losses if not losses()[name].cubic or items <= args.cubic_items]
        rows = [(name, losses()[name], gradient) for name in wanted for gradient in (False, True)]
        for name, loss, gradient in rows:
            row = {"loss": name, "items": items, "call": "gradient" if gradient else "forward"}
            try:
                record.add(**row, **measure(name, loss, gradient, raw, args, rates))
            except Exception as error:  # such as too little memory: the other rows are still wanted
                record.add(**row, failed=first_line(error))


if __name__ == "__main__":
    main()
