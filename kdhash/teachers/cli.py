"""`python -m kdhash teachers`: which networks are known, and what a weight file is."""

import argparse
import json
import sys
from typing import Any


def add_parser(commands: Any) -> None:
    """The command 'teachers' and its 'check'."""
    parser = commands.add_parser(
        "teachers",
        help="list the networks that weights can be read for, or check a weight file",
        description="Without more: lists families of networks, their published sizes and the sources that are read.",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    check = actions.add_parser(
        "check", help="say what a weight file is and whether it loads", description="Reads a weight file."
    )
    check.add_argument("path", help="a file, a Hugging Face folder, or hf://owner/name[@revision]")
    check.add_argument("--variant", help="which published network, where a file fits several")
    check.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the list or the finding; 1 where a file does not load."""
    try:
        facts: Any = check_weights(args.path, args.variant) if args.action == "check" else known_networks()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(facts, indent=1))
    elif args.action == "check":
        print("\n".join(f"{name.replace('_', ' '):16}{value}" for name, value in facts.items()))
    else:
        print(f"{'network':26}{'input':>6}{'width':>7}{'parameters':>13}  read from")
        for row in facts:
            print(
                f"{row['network']:26}{row['input']:>6}{row['width']:>7}{row['parameters']:>13,}  {', '.join(row['sources'])}"
            )
    return 0


def known_networks() -> list[dict[str, Any]]:
    """One row a published network: its family, input size (pixels), feature width, parameters, and sources."""
    import jax
    import jax.numpy as jnp

    from kdhash.models.backbones import make_backbone
    from kdhash.teachers.families import FAMILIES

    rows = []
    for family in FAMILIES.values():
        for name, variant in family.variants.items():
            size = variant.preprocessing.size
            net = make_backbone(family.arch, classes=1000, **variant.sizes)
            outputs, variables = jax.eval_shape(
                lambda net=net, size=size: net.init_with_output(
                    jax.random.key(0), jnp.zeros((1, size, size, 3))
                )
            )
            rows.append(
                {
                    "network": name,
                    "family": family.name,
                    "input": size,
                    "width": outputs["features"].shape[-1],
                    "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
                    "sources": list(variant.dialects or family.dialects),
                    "reference": family.reference,
                }
            )
    return rows


def check_weights(path: str, variant: str | None = None) -> dict[str, Any]:
    """What a weight file is. Raises OSError or ValueError, which say why, where it cannot be loaded."""
    from collections import Counter

    from kdhash.teachers.recognize import recognize
    from kdhash.teachers.registry import load_teacher
    from kdhash.teachers.sources import find_source, read_state

    source = find_source(path)
    state = read_state(source)
    kinds = Counter(str(array.dtype) for array in state.values())
    facts: dict[str, Any] = {
        "path": str(source.path),
        "files": ", ".join(file.name for file in source.files),
        "tensors": ", ".join(f"{count} {kind}" for kind, count in kinds.items()),
    }
    if any(name.startswith("params/") for name in state):
        return facts | {
            "kind": "kdhash's own; a config entry needs arch, sizes, mean and std beside 'weights'"
        }
    network = recognize(source, state, variant=variant)
    spec = {"weights": path} | ({"variant": variant} if variant else {})
    size = network.preprocessing.size if network.preprocessing else 224
    teacher = load_teacher("check", spec, image_size=size, classes=network.classes or 1)
    return facts | {
        "network": network.variant or f"{network.arch} {network.sizes}",
        "family": network.family,
        "names": network.dialect,
        "classes": network.classes or "no classifier",
        "width": teacher.width,
        "parameters": teacher.parameters,
        **{f"input_{key}": value for key, value in teacher.preprocessing._asdict().items()},
        "loads": "yes",
    }
