"""A training step on a CPU divided into devices, in XLA's own order and in the one that kdhash asks for, in turns.

    python benchmarks/order.py --host-devices 8
    python benchmarks/order.py --networks resnet18          # a CPU that is one device

The same program is compiled twice: in XLA's 'own' order, and in the one that keeps the 'fewest' bytes at a time. After three
steps all parameters must be the same to the last bit. `own_ms` and `fewest_ms` are medians over rounds, `ratio` is the median
of the rounds' quotients, own over fewest; `cpu_ratio` is that of the medians of processor time. `own_mb` and `fewest_mb`: what
XLA lays out for the step beside its inputs and outputs, on each device.
"""

import argparse
from typing import Any

import numpy as np
from measure import Record, device_options, ratio, set_devices, take_turns
from training import NETWORKS, Kdhash, make_batch


class Ordered:
    """A step of kdhash, compiled with the options of an order, from its own copy of the first parameters."""

    def __init__(self, step: Kdhash, options: dict[str, str]):
        import jax

        lowered = step.step.lower(step.state, step.batch)
        self.program = lowered.compile(options)
        self.state = jax.tree.map(lambda x: x.copy(), step.state)  # a step overwrites it
        self.batch = step.batch

    def run(self, calls: int) -> None:
        for _ in range(calls):
            self.state, terms = self.program(self.state, self.batch)
            terms["loss"].block_until_ready()


def compare(network: str, loss: str, pictures: int, rounds: int, seconds: float) -> dict[str, Any]:
    import jax

    from kdhash.training.mapping import FEWEST_BYTES

    orders = {"own": dict.fromkeys(FEWEST_BYTES, "CPU_SCHEDULER_TYPE_DEFAULT"), "fewest": FEWEST_BYTES}
    step = Kdhash(network, loss, "float32", make_batch(loss, pictures))
    sides = {name: Ordered(step, options) for name, options in orders.items()}
    for side in sides.values():
        side.run(3)
    if not all(map(np.array_equal, *(jax.tree.leaves(side.state.params) for side in sides.values()))):
        return {"network": network, "loss": loss, "failed": "parameters differ after three steps"}
    times = take_turns({name: side.run for name, side in sides.items()}, rounds=rounds, seconds=seconds)
    memory = {name: side.program.memory_analysis() for name, side in sides.items()}
    return {
        "network": network,
        "loss": loss,
        "pictures": pictures,
        **{f"{name}_ms": times[name]["ms"] for name in orders},
        "ratio": ratio(times, "own", "fewest"),
        "cpu_ratio": times["own"]["cpu_ms"] / times["fewest"]["cpu_ms"],
        **{f"{name}_mb": memory[name].temp_size_in_bytes / 1e6 for name in orders},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--losses", nargs="+", choices=("dmth", "brcd"), default=["dmth"])
    parser.add_argument("--pictures", type=int, default=128, help="pictures a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each order in each round")
    device_options(parser)
    args = parser.parse_args()
    set_devices(args)
    record = Record(args.json)
    for network in args.networks:
        for loss in args.losses:
            record.add(**compare(network, loss, args.pictures, args.rounds, args.seconds))


if __name__ == "__main__":
    main()
