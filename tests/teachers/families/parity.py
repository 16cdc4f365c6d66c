"""A converted network against the PyTorch network that its weights come from. The reference needs the extra 'oracle'."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.models.backbones import make_backbone
from kdhash.teachers.convert import convert
from kdhash.teachers.families import FAMILIES
from kdhash.teachers.recognize import recognize
from kdhash.teachers.sources import find_source, read_state

Reference = Callable[[Any], Mapping[str, Any]]  # NCHW float tensor -> outputs
OPERATORS: list[Any] = []  # a torch Library lives as long as somebody holds it


def need(*libraries: str) -> list[Any]:
    """The imported reference libraries ('timm', 'torchvision', 'transformers'), or the test module is skipped."""
    torch = pytest.importorskip("torch", reason="needs the extra 'oracle'")
    try:
        import torchvision  # noqa: F401  (timm and transformers import it)
    except ImportError:
        pass
    except RuntimeError:
        # Its wheel is built for CUDA; beside a CPU torch its operators do not load, and its import stops at these two. Its
        # networks need neither.
        OPERATORS.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            OPERATORS[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return [pytest.importorskip(name, reason="needs the extra 'oracle'") for name in libraries]


def randomized(module: Any, seed: int = 0) -> Any:
    """The torch module in eval mode, every parameter and statistic drawn anew: fresh modules are full of zeros and ones."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim < 2:
                noise = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor.copy_(noise + (1.0 if name.endswith("weight") else 0.0))
            else:
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (1.5 / fan_in) ** 0.5)
    return module.eval()


def assert_folder_parity(
    family: str, module: Any, folder: Path, reference: Reference, *, image_sizes: tuple[int, ...]
) -> None:
    """Saves a module of transformers, has it recognised from its folder alone, and compares it as `assert_parity` does."""
    module.save_pretrained(folder)
    source = find_source(str(folder))
    network = recognize(source, read_state(source))
    assert network.family == family
    net = make_backbone(network.arch, classes=network.classes, **network.sizes)
    _compare(net, network.variables, reference, image_sizes, rtol=1e-4)


def assert_parity(
    family: str,
    dialect: str,
    sizes: Mapping[str, Any],
    module: Any,
    reference: Reference,
    *,
    image_sizes: tuple[int, ...],
    classes: int | None = 5,
    rtol: float = 1e-4,
) -> None:
    """Converts the state dict of `module` through FAMILIES[family].dialects[dialect] and compares every output that
    `reference(NCHW float tensor)` names ('features', 'logits', 'spatial' as NCHW) at every image size.

    The tolerance is relative to the largest value of each output.
    """
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    spoken = FAMILIES[family].dialects[dialect]
    net = make_backbone(FAMILIES[family].arch, classes=classes, **sizes)
    template = jax.eval_shape(
        lambda: net.init(jax.random.key(0), jnp.zeros((1, image_sizes[0], image_sizes[0], 3)))
    )
    names = spoken.names(**sizes)
    if classes is None:
        names = {
            target: source for target, source in names.items() if not target.startswith("params/classifier/")
        }
    variables = convert(spoken.weights(state), names, template, source=f"{family} {dialect}")
    _compare(net, variables, reference, image_sizes, rtol)


def _compare(
    net: Any, variables: Any, reference: Reference, image_sizes: tuple[int, ...], rtol: float
) -> None:
    import torch

    for size in image_sizes:
        pictures = np.random.default_rng(size).normal(size=(2, size, size, 3)).astype(np.float32)
        with torch.no_grad():
            expected = reference(torch.from_numpy(pictures.transpose(0, 3, 1, 2)))
        outputs = jax.jit(net.apply)(variables, pictures)
        for name, value in expected.items():
            value = value.numpy().transpose(0, 2, 3, 1) if value.ndim == 4 else value.numpy()
            assert outputs[name].shape == value.shape, name
            np.testing.assert_allclose(
                outputs[name], value, rtol=0, atol=rtol * np.abs(value).max(), err_msg=name
            )
            assert np.abs(value).max() > 1e-3, f"{name} is all but zero: the comparison proves nothing"
