"""What a CPU's training step loses in the weight gradient of a convolution: forms of it in JAX against PyTorch.

    python benchmarks/convolutions.py --json convolutions_cpu.json
    python benchmarks/convolutions.py --step                       # of whole steps of ResNet-20 too, on one device

The layers of a CIFAR ResNet-20, 3x3, batch 128. Processor time on one core, the least of the rounds in which all forms take
turns. 'xla' is what JAX's autodiff makes of lax.conv: a convolution of transposed arrays. 'taps': nine products of shifted
pictures with the gradient; 'columns': one product with all nine beside each other; 'images': that, a few images at a time so that
the copies stay in the cache, with the gradient as the left factor so that what is transposed is small. Alone, 'images' gains
little; in a whole step it gains more, since XLA otherwise works the backward pass of the batch norm out twice, the second time in
the order of the transposed array (`transpose_copy_fusion` in a trace). The result is in docs/performance.md.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from measure import Record, device_options, set_devices

LAYERS = ((32, 16), (16, 32), (8, 64))  # pixels a side, channels


def forms() -> dict[str, Callable[..., Any]]:
    """{form: f(pictures [n, h, w, i], gradient [n, h, w, o]) -> gradient of the kernel [3, 3, i, o]}."""
    import jax
    import jax.numpy as jnp

    def convolve(x: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def shape(x: Any, dy: Any) -> tuple[int, int, int, int]:
        return 3, 3, x.shape[-1], dy.shape[-1]

    def shifted(x: Any) -> list[Any]:
        height, width = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]

    def xla(x: Any, dy: Any) -> Any:
        return jax.vjp(partial(convolve, x), jnp.zeros(shape(x, dy)))[1](dy)[0]

    def taps(x: Any, dy: Any) -> Any:
        products = [jnp.einsum("bhwi,bhwo->io", one, dy) for one in shifted(x)]
        return jnp.stack(products).reshape(shape(x, dy))

    def columns(x: Any, dy: Any) -> Any:
        beside = jnp.concatenate(shifted(x), axis=-1)
        return jnp.einsum("bhwk,bhwo->ko", beside, dy).reshape(shape(x, dy))

    def images(x: Any, dy: Any, at_once: int, stride: int = 1) -> Any:
        width = dy.shape[-1]

        def add(total: Any, some: Any) -> tuple[Any, None]:
            beside = jnp.concatenate([one[:, ::stride, ::stride] for one in shifted(some[0])], axis=-1)
            rows = (((0,), (0,)), ((), ()))
            flat = some[1].reshape(-1, width), beside.reshape(-1, beside.shape[-1])
            return total + jax.lax.dot_general(*flat, rows), None

        groups = [array.reshape(-1, at_once, *array.shape[1:]) for array in (x, dy)]
        total, _ = jax.lax.scan(add, jnp.zeros((width, 9 * x.shape[-1])), tuple(groups))
        return total.T.reshape(shape(x, dy))

    return {
        "xla": xla,
        "taps": taps,
        "columns": columns,
        "images, 1": partial(images, at_once=1),
        "images, 2": partial(images, at_once=2),
        "images, 8": partial(images, at_once=8),
    }


def step_rows(record: Record, batch: int, rounds: int) -> None:
    """Whole training steps of ResNet-20, with what XLA makes of its convolutions and with the form 'images, 2'."""
    from unittest import mock

    import jax
    import torch_twins
    from training import MEAN, STD, Kdhash, Torch, make_batch

    plain, images = jax.lax.conv_general_dilated, forms()["images, 2"]
    common = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    @partial(jax.custom_vjp, nondiff_argnums=(2, 3))
    def convolve(x: Any, kernel: Any, strides: Any, padding: Any) -> Any:
        return plain(x, kernel, strides, padding, **common)

    def forward(x: Any, kernel: Any, strides: Any, padding: Any) -> Any:
        return convolve(x, kernel, strides, padding), (x, kernel)

    def backward(strides: Any, padding: Any, saved: Any, dy: Any) -> Any:
        x, kernel = saved
        dx, dw = jax.vjp(lambda *inputs: plain(*inputs, strides, padding, **common), x, kernel)[1](dy)
        return dx, dw if x.shape[-1] == 3 else images(x, dy, stride=strides[0])

    convolve.defvjp(forward, backward)

    def instead(x: Any, kernel: Any, strides: Any, padding: Any, **_: Any) -> Any:
        return convolve(x, kernel, tuple(strides), tuple(map(tuple, padding)))

    raw = make_batch("dmth", batch)
    ours = {"xla": Kdhash("resnet20", "dmth", "float32", raw)}
    ours["xla"].losses(1)
    with mock.patch.object(jax.lax, "conv_general_dilated", instead):
        ours["images, 2"] = Kdhash("resnet20", "dmth", "float32", raw)
        ours["images, 2"].losses(1)
    theirs = Torch(torch_twins.Backbone("resnet20", MEAN, STD), "dmth", raw, ours["xla"].arrays)
    calls = {"torch": partial(theirs.side("float32"), 1)}
    calls |= {name: partial(step.run, 1) for name, step in ours.items()}
    add_rows(record, "step of ResNet-20", calls, rounds, {})


def add_rows(
    record: Record, layer: str, calls: dict[str, Callable[[], Any]], rounds: int, apart: dict[str, float]
) -> None:
    least = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                least[name] = min(least[name], time.process_time() - start)
    for name, seconds in least.items():
        of_torch = seconds / least["torch"]
        row = {"layer": layer, "form": name, "cpu_ms": 1e3 * seconds, "of_torch": of_torch}
        record.add(**row, **({"apart": apart[name]} if name in apart else {}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--step", action="store_true", help="whole steps too")
    device_options(parser)
    parser.set_defaults(threads=1)
    args = parser.parse_args()
    set_devices(args)
    import jax
    import torch

    torch.set_num_threads(1)
    record = Record(args.json)
    for side, channels in LAYERS:
        rng = np.random.default_rng(0)
        x, dy = (rng.normal(size=(args.batch, side, side, channels)).astype(np.float32) for _ in "xy")
        kernel = torch.zeros(channels, channels, 3, 3).to(memory_format=torch.channels_last)
        theirs = [
            torch.from_numpy(array).permute(0, 3, 1, 2) for array in (dy, x)
        ]  # channels-last as they are
        backward = partial(
            torch.ops.aten.convolution_backward,
            *theirs,
            kernel,
            None,
            [1, 1],
            [1, 1],
            [1, 1],
            False,
            [0, 0],
            1,
        )
        expected = backward([False, True, False])[1].permute(2, 3, 1, 0).numpy()
        calls: dict[str, Callable[[], Any]] = {"torch": partial(backward, [False, True, False])}
        apart = {}
        for name, form in forms().items():
            compiled = jax.jit(form)
            calls[name] = partial(
                lambda f, *inputs: f(*inputs).block_until_ready(), compiled, *map(jax.numpy.asarray, (x, dy))
            )
            apart[name] = float(np.abs(np.asarray(compiled(x, dy)) - expected).max() / np.abs(expected).max())
        add_rows(record, f"{side}x{side}x{channels}", calls, args.rounds, apart)
    if args.step:
        step_rows(record, args.batch, args.rounds)


if __name__ == "__main__":
    main()
