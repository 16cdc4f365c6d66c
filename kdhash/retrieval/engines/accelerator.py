"""Exact search by JAX on all devices of this process: GPUs, TPUs, or the host's cores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Bool, UInt8

from kdhash.retrieval.engines import accelerator_programs as programs
from kdhash.retrieval.engines.embedded import EmbeddedEngine
from kdhash.retrieval.engines.request import make_found
from kdhash.retrieval.found import Found

FORMULATIONS = ("popcount", "matmul")
CANDIDATES = 2**25  # items that the queries of a block look at one by one: about 20 bytes each
MOST = 2**31 - 2**20  # places are int32, and the last group of a device need not be full


class AcceleratorEngine(EmbeddedEngine):
    """A scan by XLA: the codes lie spread over `devices` (default: all of this process), 8 bytes each for 64 bits.

    formulation: 'popcount' (XOR and population count of packed words) or 'matmul' (products of -1/+1 codes, which are unpacked on
    the way); default: 'matmul' on TPUs, else 'popcount'. Both are exact, in the order (distance, number).
    query_block: queries searched together, at most.  group: codes of a group, a power of two (default: by the number of codes);
    see accelerator_programs. Device memory beside the codes: query_block x codes / group x 8 bytes, and a few hundred MiB.
    """

    name = "accelerator"

    def __init__(
        self,
        bits: int,
        *,
        formulation: str | None = None,
        query_block: int = 256,
        group: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        super().__init__(bits)
        devices = jax.local_devices() if devices is None else devices
        if formulation is None:
            formulation = "matmul" if devices[0].platform == "tpu" else "popcount"
        if formulation not in FORMULATIONS:
            raise ValueError(f"formulation: {formulation!r} is unknown; there are {', '.join(FORMULATIONS)}")
        for name, value in (("query_block", query_block), ("group", group)):
            if value is not None and (value < 1 or value & (value - 1)):
                raise ValueError(f"{name}: expected a power of two, got {value}")
        self.formulation, self.query_block, self.group = formulation, query_block, group
        axis = (programs.AXIS,)
        self._mesh = jax.make_mesh((len(devices),), axis, axis_types=(AxisType.Auto,), devices=devices)
        self._database: Any = None

    def _search(
        self,
        codes: UInt8[np.ndarray, "queries bytes"],
        k: int | None,
        radius: int,
        keep: Bool[np.ndarray, " n"] | None,
    ) -> Found:
        if self.count() > MOST:
            raise ValueError(
                f"accelerator: at most {MOST:,} codes in one engine, got {self.count():,}: search in parts"
            )
        if self._database is None:
            self._database = self._spread(programs.to_words(self._codes))
        mask = None if keep is None else self._spread(keep[:, None])[0]
        query, items = programs.to_words(codes), np.int32(self.count())
        bits = query.shape[1] * 32
        if k is None:
            count = programs.count_program(self._mesh, mask is not None)
            counts = self._in_blocks(
                query,
                self.query_block,
                lambda part: count(part, self._database, mask, items, np.int32(radius)),
            )
            k = max(1, int(counts[0].max()))
        group = self._database.shape[1]
        # few sizes of k, and so few programs to compile
        room = min(max(16, 1 << (k - 1).bit_length()), group * self._database.shape[2])
        block = min(self.query_block, max(1, 1 << (CANDIDATES // (room * group) or 1).bit_length() - 1))
        nearest = programs.nearest_program(self._mesh, bits, room, self.formulation, mask is not None)
        distances, rows = self._in_blocks(
            query, block, lambda part: nearest(part, self._database, mask, items)
        )
        distances, rows = distances[:, :k], rows[:, :k]
        there = distances <= radius
        return make_found(distances, self._numbers[np.where(there, rows, 0)], there)

    def _in_blocks(self, query: np.ndarray, block: int, program: Any) -> list[np.ndarray]:
        """What the program says of all queries, a block at a time: while one is computed, the one before is fetched."""

        def answers() -> Iterator[tuple[int, Any]]:
            for first in range(0, len(query), block):
                part = query[first : first + block]
                size = min(block, 1 << (len(part) - 1).bit_length())
                yield len(part), program(np.pad(part, ((0, size - len(part)), (0, 0))))

        parts: list[list[np.ndarray]] = []
        waiting: tuple[int, Any] | None = None
        for answer in itertools.chain(answers(), [None]):
            if waiting is not None:
                parts.append(_fetched(*waiting))
            waiting = answer
        return [np.concatenate(columns) for columns in zip(*parts, strict=True)]

    def _spread(self, rows: np.ndarray) -> jax.Array:
        """[n, width] -> [width, group, columns] over the devices by columns; row column * group + r is at [:, r, column]."""
        devices, n = self._mesh.size, len(rows)
        group = self.group or default_group(math.ceil(n / devices), self.bits)
        columns = math.ceil(n / group / devices)
        columns += -columns % (1 << max(0, columns.bit_length() - 4))  # few sizes, and so few programs

        def part(index: Any) -> np.ndarray:
            first, last, _ = index[2].indices(columns * devices)
            mine = rows[first * group : last * group]
            missing = (last - first) * group - len(mine)
            if missing:
                # the last group is filled with its last item, which leaves its smallest distance what it is
                mine = np.concatenate([mine, np.broadcast_to(rows[-1], (missing, rows.shape[1]))])
            return np.ascontiguousarray(mine.reshape(last - first, group, rows.shape[1]).transpose(2, 1, 0))

        sharding = NamedSharding(self._mesh, PartitionSpec(None, None, programs.AXIS))
        return jax.make_array_from_callback((rows.shape[1], group, columns * devices), sharding, part)

    def _options(self) -> dict[str, Any]:
        # devices are those of the machine on which it is opened
        return {
            "bits": self.bits,
            "formulation": self.formulation,
            "query_block": self.query_block,
            "group": self.group,
        }

    def _changed(self) -> None:
        self._database = None


def default_group(items: int, bits: int) -> int:
    """Codes of a group where a device has so many: the scan writes items / group values, then k x group codes are looked at."""
    balanced = round(math.log2(max(1, items / 128)) / 2)
    for_float32 = math.ceil(
        math.log2(max(1, items * (bits + 2) / programs.EXACT))
    )  # minima are selected as such keys
    return 1 << min(12, max(5, balanced, for_float32))


def _fetched(count: int, arrays: Any) -> list[np.ndarray]:
    return [np.asarray(array)[:count] for array in (arrays if isinstance(arrays, tuple) else (arrays,))]
