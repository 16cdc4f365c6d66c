"""One pure step over all devices.

Under 'jit' the batch is one global array, divided over the mesh by its sharding: losses over pairs and batch norm see the
whole batch without a line of code. Under 'pmap' each device runs the forward pass on its share, batch norm averages over
the axis, outputs are gathered, and every device computes the same global loss. Both give the numbers of one device, also where
the devices belong to several processes, of which each brings its part of a batch.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdhash.methods.interface import Batch, Method
from kdhash.processes import share_of
from kdhash.training.accumulate import cached_gradients
from kdhash.training.state import TrainState

AXIS = "data"
ROW = "row"  # of a batch: which rows of the data on the devices it holds
# Of the orders in which XLA can work off a program on a CPU, the one that keeps the fewest bytes at a time: what a device works
# on stays in the caches. XLA's own choice is for a CPU that is one device, of which it keeps several threads busy.
FEWEST_BYTES = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
Prepare = Callable[[jax.Array, Batch], Batch]  # (one key an example, raw batch) -> batch, e.g. augmentation


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with one axis, 'data', over all devices of all processes (or those given).

    Each process's devices stand together, in the order of processes: so do its rows of a batch.
    """
    ordered = sorted(
        jax.devices() if devices is None else devices, key=lambda one: (one.process_index, one.id)
    )
    return Mesh(np.asarray(ordered), (AXIS,), axis_types=(AxisType.Auto,))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's share of a global batch as global arrays, divided over the mesh by the first axis."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same values, which every process has, on every device of the mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if share_of(mesh)[1] == 1:
        return jax.device_put(tree, everywhere)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == everywhere:
            return leaf
        return jax.make_array_from_process_local_data(everywhere, np.asarray(leaf))

    return jax.tree.map(place, tree)


def look_up(table: Batch | None, batch: Batch) -> Batch:
    """Inside the jitted step: the rows `batch[ROW]` [batch] of every array of `table`, and what else `batch` holds."""
    if table is None:
        return batch
    rest = {name: value for name, value in batch.items() if name != ROW}
    found = jax.tree.map(lambda x: x.at[batch[ROW]].get(mode="promise_in_bounds"), table)
    # what follows is compiled as for a batch that comes from the host
    return jax.lax.optimization_barrier(found) | rest


def raised_anywhere(mesh: Mesh, delay: int) -> Callable[[bool], bool]:
    """ask(flag) -> whether any process of the mesh had raised its flag `delay` calls ago: the same answer in all of them.

    The flags travel with the steps, so that asking waits for no step younger than those `delay` calls. A mesh of one process
    answers at once.
    """
    if share_of(mesh)[1] == 1:
        return lambda flag: flag
    local = len(mesh.local_devices)
    collect = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
    travelling: deque[jax.Array] = deque()

    def ask(flag: bool) -> bool:
        travelling.append(collect(put_batch(np.full(local, flag), mesh)))
        return len(travelling) > delay and bool(travelling.popleft())

    return ask


@cache
def step_options(mesh: Mesh) -> dict[str, str]:
    """What XLA is told when it compiles a training step: `FEWEST_BYTES` where a CPU is divided into devices, if XLA knows it.

    The same in all processes, whose programs must agree.
    """
    processes = {one.process_index for one in mesh.devices.flat}
    if mesh.devices.flat[0].platform != "cpu" or mesh.devices.size == len(processes):
        return {}
    try:
        with jax.default_device(mesh.local_devices[0]):
            jax.jit(lambda x: x, compiler_options=FEWEST_BYTES).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # an option of XLA's own, which another version may call otherwise
        return {}
    return FEWEST_BYTES


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    mapping: str = "jit",
    prepare: Prepare | None = None,
    microbatches: int = 1,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """step(state, batch, table=None) -> (state, terms): one update on a global batch, `terms` being scalars with 'loss' among
    them. With a `table` of arrays [rows, ...] on every device ('jit' only) the batch holds `ROW`, and is looked up there.

    All randomness is drawn from `seed`, the step and the example's place in the global batch. For 'pmap' the method must
    have been made with axis_name='data'. The state passed in is donated. A step on a divided CPU has options of its own for the
    compiler and cannot be part of another jitted function. `microbatches` above 1: as many parts of the batch go through the
    network one after the other (`cached_gradients`); each must be divisible by the number of devices.
    """

    def keys_of(step: jax.Array, count: int) -> jax.Array:
        return jax.random.split(jax.random.fold_in(jax.random.key(seed), step), count)

    def forward(params, state, batch, keys):
        if prepare is not None:
            prepare_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
            batch = prepare(prepare_keys, batch)
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs, stats = method.forward(variables, batch, keys, train=True)
        return outputs, (stats, batch)

    def updated(state, batch, keys, gather, average, shares) -> tuple[TrainState, dict[str, jax.Array]]:
        def loss(outputs, batch):
            loss, terms = method.loss(gather(outputs), gather(batch))
            return loss, terms | {"loss": loss}

        def loss_of(params):
            outputs, (stats, prepared) = forward(params, state, batch, keys)
            value, terms = loss(outputs, prepared)
            return value, (stats, terms)

        if microbatches == 1:
            grads, (stats, terms) = jax.grad(loss_of, has_aux=True)(state.params)
        else:
            grads, stats, terms = cached_gradients(
                lambda params, part: forward(params, state, *part),
                loss,
                state.params,
                (batch, keys),
                *_parts(microbatches, shares),
            )
        updates, opt_state = optimizer.update(average(grads), state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, params=params, batch_stats=stats, opt_state=opt_state), terms

    def global_step(state, batch, table=None):
        if table is not None:
            spread = NamedSharding(mesh, PartitionSpec(AXIS))
            batch = jax.lax.with_sharding_constraint(look_up(table, batch), spread)
        keys = keys_of(state.step, _batch_size(batch))
        return updated(state, batch, keys, lambda x: x, lambda x: x, mesh.devices.size)

    def device_step(state, batch):
        share, devices = _batch_size(batch), mesh.devices.size
        first = jax.lax.axis_index(AXIS) * share
        keys = jax.lax.dynamic_slice_in_dim(keys_of(state.step, share * devices), first, share)

        def gather(tree):
            return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)

        # Every device differentiated the same global loss with respect to its own copy of the parameters, and gathering
        # passed on the cotangents of all copies of the loss: the mean of the copies' gradients is the gradient.
        return updated(state, batch, keys, gather, lambda grads: jax.lax.pmean(grads, AXIS), 1)

    if mapping == "jit":
        everywhere = NamedSharding(mesh, PartitionSpec())
        return jax.jit(
            global_step,
            donate_argnums=0,
            out_shardings=(everywhere, everywhere),
            compiler_options=step_options(mesh),
        )
    if mapping == "pmap":
        return _pmap_step(device_step, mesh)
    raise ValueError(f"config.mapping is {mapping!r}; choose 'jit' or 'pmap'")


def _parts(count: int, shares: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """split: [batch, ...] -> [count, batch / count, ...], join: back again. Each of `shares` devices gives of its rows as many to
    every part, so that none has to move."""

    def split(x: jax.Array) -> jax.Array:
        by_device = x.reshape(shares, count, -1, *x.shape[1:])
        return by_device.swapaxes(0, 1).reshape(count, -1, *x.shape[1:])

    def join(x: jax.Array) -> jax.Array:
        by_part = x.reshape(count, shares, -1, *x.shape[2:])
        return by_part.swapaxes(0, 1).reshape(-1, *x.shape[2:])

    return partial(jax.tree.map, split), partial(jax.tree.map, join)


def _pmap_step(device_step, mesh: Mesh):
    devices, local = list(mesh.devices.flat), len(mesh.local_devices)
    mapped = jax.pmap(
        device_step, AXIS, in_axes=(None, 0), out_axes=(None, None), devices=devices, donate_argnums=0
    )

    def step(state, batch, table=None):
        if table is not None:
            raise ValueError("data on the devices are for the mapping 'jit'; 'pmap' is handed batches")
        shares = jax.tree.map(lambda x: np.asarray(x).reshape(local, -1, *x.shape[1:]), batch)
        return mapped(state, shares)

    return step


def make_encode(
    method: Method, mesh: Mesh, batch_size: int
) -> Callable[[Any, Callable[[np.ndarray], Any], np.ndarray], np.ndarray]:
    """encode(variables, fetch, rows) -> real-valued codes [rows, bits], mapped over the mesh in batches of `batch_size`.

    `fetch(rows)` gives the method's inputs; each process is asked for its part of a batch, and all get the codes of all rows.
    The last batch is filled up with copies that are cut off again.
    """
    place, count = share_of(mesh)
    mine = slice(place * batch_size // count, (place + 1) * batch_size // count)
    spread, everywhere = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in ((AXIS,), ()))

    def codes(variables: Any, inputs: Any) -> jax.Array:
        return jax.lax.with_sharding_constraint(method.encode(variables, inputs), spread)

    apply = jax.jit(codes, out_shardings=everywhere)

    def encode(variables: Any, fetch: Callable[[np.ndarray], Any], rows: np.ndarray) -> np.ndarray:
        variables = replicate(variables, mesh)
        parts = []
        for start in range(0, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            padded = np.pad(chunk, (0, batch_size - len(chunk)), mode="edge")
            parts.append(np.asarray(apply(variables, put_batch(fetch(padded[mine]), mesh)))[: len(chunk)])
        return np.concatenate(parts)

    return encode


def _batch_size(batch: Batch) -> int:
    return jnp.shape(jax.tree.leaves(batch)[0])[0]
