"""What every stage of one run needs to know."""

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import kdhash
from kdhash.data import Protocol
from kdhash.experiment.workdir import write_json
from kdhash.processes import by_first, first, share_of
from kdhash.teachers.registry import save_variables
from kdhash.training.mapping import data_mesh


@dataclasses.dataclass
class Run:
    """A run in progress: its config and places, its data, and the seconds each stage took when it ran last."""

    config: ConfigDict
    workdir: Path
    mesh: Mesh
    dataset: Any  # an ImageDataset, of a KDCMH run a PairDataset
    protocol: Protocol
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.dataset.class_names)

    @property
    def dtype(self) -> str:
        """What training computes in."""
        return self.config.get("dtype", "float32")

    @property
    def remat(self) -> bool:
        """Whether training keeps the inputs of a network's blocks only."""
        return self.config.get("remat", False)

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """Float32 pictures in [0, 1], as students and classifiers encode them."""
        return self.dataset.images[rows].astype(np.float32) / 255

    def example_picture(self) -> dict[str, Any]:
        """The shape of a batch of one prepared picture."""
        return {"image": jax.ShapeDtypeStruct((1, *self.dataset.images.image_shape), jnp.float32)}

    def identity(self) -> dict[str, Any]:
        """What every trained thing depends on. Devices are not among it: their number and kind change the last digits only."""
        return {
            "kdhash": kdhash.__version__,  # to be raised with every change that moves numbers
            "dataset": self.dataset.fingerprint,
            "protocol": self.protocol.checksum,
            "seed": self.config.seed,
            "mapping": self.config.mapping,
            **({} if self.dtype == "float32" else {"dtype": self.dtype}),  # said only where it was chosen
        }

    def hardware(self) -> str:
        """What it runs on: '8 x cpu', '16 x NVIDIA H100 in 2 processes'."""
        count = share_of(self.mesh)[1]
        devices = f"{self.mesh.devices.size} x {self.mesh.devices.flat[0].device_kind}"
        return f"{devices} in {count} processes" if count > 1 else devices

    def facts(self, title: str, command: str) -> dict[str, Any]:
        """What a report must say of a run beside its numbers."""
        config, protocol, device = self.config, self.protocol, self.mesh.devices.flat[0]
        return {
            "title": title,
            "method": config.method,
            "dataset": config.dataset,
            "labels_note": config.get("labels_note", {}).get(config.dataset, ""),
            "protocol": {
                "name": protocol.name,
                "seed": protocol.seed,
                "checksum": protocol.checksum,
                **{
                    part: len(getattr(protocol, part))
                    for part in ("query", "database", "train", "validation")
                },
            },
            "bits": config.bits,
            "seed": config.seed,
            "command": command,
            "machine": {
                "platform": platform.platform(),
                "device": device.device_kind,
                "device_count": int(self.mesh.devices.size),
                "jax": jax.__version__,
                "python": platform.python_version(),
            },
            "seconds": self.seconds,
        }

    def by_first(self, work: Callable[[], Any]) -> Any:
        """`processes.by_first` among the processes of this run's mesh."""
        return by_first(work, among=self.mesh)

    def say(self, text: str) -> None:
        if first():
            print(text, flush=True)


def seeded(run: Run, seed: int) -> Run:
    """The same run with another training seed."""
    config = run.config.copy_and_resolve_references()
    config.seed = seed
    return dataclasses.replace(run, config=config)


def on_own_devices(run: Run) -> Run:
    """The same run on this process's devices alone: a step of a hash head is shorter than a message to another machine."""
    return dataclasses.replace(run, mesh=data_mesh(run.mesh.local_devices))


def for_heads(run: Run) -> Run:
    """`on_own_devices`, and on one of them where that is a CPU: a hash head is too small to be divided over its host devices."""
    own = on_own_devices(run)
    one = own.mesh.devices.flat[0]
    return dataclasses.replace(run, mesh=data_mesh([one])) if one.platform == "cpu" else own


def sizes_of(config: ConfigDict) -> dict[str, Any]:
    """A config's network sizes as keyword arguments (lists become tuples, as Flax modules need)."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}


def mean_and_deviation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each channel of [rows, width]; a channel that hardly varies in training must not rule elsewhere, so that no deviation is
    less than a tenth of their mean."""
    deviation = features.std(axis=0)
    return features.mean(axis=0), np.maximum(deviation, 0.1 * deviation.mean())


def keep_inputs(run: Run, name: str, scales: dict[str, np.ndarray], identity: dict[str, str]) -> None:
    """Keeps in workdir/inputs/<name> what an export of the run needs beside weights: means and deviations of features, and what
    networks these are of ('image', 'text')."""
    folder = run.workdir / "inputs" / name
    if first():
        save_variables(folder / "scales.safetensors", scales)
        write_json(folder / "identity.json", identity)


def chunked(function: Callable[[np.ndarray], Any], rows: np.ndarray, size: int) -> Any:
    """function(rows) in chunks of at most `size`, the resulting trees of arrays concatenated on the host."""
    parts = [
        jax.tree.map(np.asarray, function(rows[start : start + size])) for start in range(0, len(rows), size)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
