"""`python -m kdhash teachers`: which networks are known, and what a weight file is."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any


def add_parser(commands: Any) -> None:
    """The command 'teachers' and its 'check'."""
    parser = commands.add_parser(
        "teachers",
        help="list the networks that weights can be read for, or check a weight file",
        description="Without more: lists families of networks, their published sizes and the sources that are read.",
    )
    parser.add_argument("--family", help="only this family, such as 'vit'")
    parser.add_argument("--json", action="store_true", help="as JSON")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    check = actions.add_parser(
        "check", help="say what a weight file is and whether it loads", description="Reads a weight file."
    )
    check.add_argument("path", help="a file, a Hugging Face folder, or hf://owner/name[@revision]")
    check.add_argument("--variant", help="which published network, where a file fits several")
    check.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the list or the finding; 1 where a file does not load."""
    try:
        if args.action != "check":
            _list(known_networks(args.family), args.json)
            return 0
        facts = check_weights(args.path, args.variant)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(facts, indent=1))
    else:
        print("\n".join(f"{name.replace('_', ' '):21}{value}" for name, value in facts.items()))
    return 0


def _list(rows: Iterator[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(list(rows), indent=1))
        return
    print(f"{'family':18}{'network':45}{'input':>6}{'width':>7}{'parameters*':>15}  names of")
    for row in rows:
        print(
            f"{row['family']:18}{row['network']:45}{row['input']:>6}{row['width']:>7}{row['parameters']:>15,}  "
            f"{', '.join(row['sources'])}",
            flush=True,
        )
    print(
        "* without the classifier. Files: .safetensors (sharded too), .pth, .pt, .th, .bin; a Hugging Face folder or "
        "hf://owner/name;\n  an Orbax checkpoint. Any of a family's sizes is read, also one that is not listed, where a "
        "config.json gives it."
    )


def known_networks(only: str | None = None) -> Iterator[dict[str, Any]]:
    """One row a published network: its family, input size (pixels, or tokens for the family's text towers), feature width,
    parameters without the classifier, and sources. Raises ValueError for an unknown family.
    """
    import jax

    from kdhash.models.backbones import make_backbone
    from kdhash.teachers.families import FAMILIES
    from kdhash.teachers.recognize import example_input

    if only is not None and only not in FAMILIES:
        raise ValueError(f"family {only!r} is unknown; known are {', '.join(FAMILIES)}")
    measured: dict[Any, Any] = {}
    for family in FAMILIES.values() if only is None else [FAMILIES[only]]:
        for name, variant in family.variants.items():
            size = variant.preprocessing.size
            net = make_backbone(family.arch, **variant.sizes)
            if (net, size) not in measured:  # published by several sources
                measured[net, size] = jax.eval_shape(
                    net.init_with_output, jax.random.key(0), example_input(family, size)
                )
            outputs, variables = measured[net, size]
            yield {
                "network": name,
                "family": family.name,
                "input": net.length if family.inputs == "tokens" else size,
                "takes": family.inputs,
                "width": outputs["features"].shape[-1],
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
                "sources": list(variant.dialects or family.dialects),
                "reference": family.reference,
            }


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
            "kind": "kdhash's own; a config entry needs arch, sizes, mean and std beside 'weights'",
            "loads": "into the arch and sizes that it was made with, which the file does not tell",
        }
    spec: dict[str, Any] = {"weights": path} | ({"variant": variant} if variant else {})
    text = _text_tower(spec)
    try:
        network = recognize(source, state, variant=variant)
    except ValueError:
        if not text:
            raise
        return facts | {"network": "text tower"} | text | {"loads": "yes"}
    if network.preprocessing is None:
        spec |= {"mean": (0.5,) * 3, "std": (0.5,) * 3, "image_size": 224}
        wanted = {"input": "not said by the source; a config entry needs mean, std and image_size"}
    else:
        wanted = {f"input_{key}": value for key, value in network.preprocessing._asdict().items()}
    size = network.preprocessing.size if network.preprocessing else 224
    teacher = load_teacher("check", spec, image_size=size, classes=network.classes or 1)
    return facts | {
        "network": network.variant or f"{network.arch} {network.sizes}",
        "family": network.family,
        "names": network.dialect,
        "classes": network.classes or "no classifier",
        "width": teacher.width,
        "parameters": teacher.parameters,
        **wanted,
        **{f"text_{key}": value for key, value in text.items()},
        "loads": "yes",
    }


def _text_tower(spec: dict[str, Any]) -> dict[str, Any]:
    """What the text tower of a source is; {} where it has none."""
    from kdhash.teachers.registry import load_text_teacher

    try:
        text = load_text_teacher("check", spec)
    except ValueError:
        return {}
    return {
        "width": text.width,
        "parameters": text.parameters,
        "input_tokens": f"at most {text.length}",
    }
