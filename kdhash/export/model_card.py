"""README.md of a model folder: what it is, how to use it, its numbers with all that belongs to them, limits, licences."""

import re
from collections.abc import Mapping
from typing import Any

from kdhash.export.model import IMAGE_TEXT

SHOWN = re.compile(r"((asymmetric|i2t|t2i) )?(map@\w+|recall@10|precision_radius2)")
NOT_SHOWN = ("_min", "_all", "_stable")
WAYS = {
    "": "",
    "i2t": "pictures find texts, ",
    "t2i": "texts find pictures, ",
    "asymmetric": "search of the teacher's codes, ",
}
CARD = """---
library_name: kdhash
tags: [hashing, image-retrieval, knowledge-distillation]
---

# {title} to codes of {bits} bits

A model of kdhash, a library for learning to hash: {method}, row `{row}`, trained on `{dataset}`. What is alike gets codes
with a small Hamming distance. The network for pictures is {arch}; {parameters:,} parameters in all. Model `{hash}`.

## Use

```python
from kdhash.export import load_model

model = load_model("{folder}")
codes = model.encode_pictures(model.fit("picture.jpg")[None])  # uint8 [1, {width}], most significant bit first
{texts}```

Without kdhash:

{artefacts}

`RGB`: the shorter side resized to {size} pixels (bicubic, antialiased), the centre cut out.

## Numbers

Protocol `{protocol}` of `{dataset}` (split `{checksum}`, seed {protocol_seed}): {query:,} queries, {database:,} in the database,
{train:,} for training, {validation:,} for validation. {bits} bits, training seed {seed}. {note}

{numbers}

## Limits

- It has seen `{dataset}` at {size} x {size} pixels and nothing else. It need not tell apart what these pictures do not
  show, and of any picture it sees no more than that many pixels of the centre square.
- A distance says how alike two things are to this network. Codes of other models say nothing about it, but for those that its
  queries may search: {searches}.

## Licences

{licences}
- kdhash itself is under Apache-2.0.
"""


def model_card(document: Mapping[str, Any], folder: str) -> str:
    """Markdown of a complete model.json. `folder` is what the example calls the model's place."""
    facts, both = document["facts"], document["kind"] == IMAGE_TEXT
    protocol, backbone = facts["protocol"], document["network"]["image"]["backbone"]
    texts = 'codes = model.encode_texts(["a dog runs through snow"])\n' if both else ""
    sizes = ", ".join(f"{name} {value}" for name, value in backbone["sizes"].items())
    return CARD.format(
        **protocol["sizes"],
        title="Pictures and texts" if both else "Pictures",
        bits=document["bits"],
        width=document["bits"] // 8,
        size=document["picture"]["size"],
        hash=document["hash"],
        folder=folder,
        method=facts["method"].upper(),
        row=facts["row"],
        dataset=facts["dataset"],
        parameters=facts["parameters"],
        seed=facts["seed"],
        arch=backbone["arch"] + (f" ({sizes})" if sizes else ""),
        texts=texts,
        artefacts="\n".join(_artefacts(document)),
        protocol=protocol["name"],
        checksum=protocol["checksum"][:8],
        protocol_seed=protocol["seed"],
        note=facts["labels_note"],
        numbers=_numbers(facts),
        searches=", ".join(
            f"`{one[:12]}`" + (" (its teacher)" if place else " (itself)")
            for place, one in enumerate(document["searches"])
        ),
        licences="\n".join(_licences(facts)),
    )


def _artefacts(document: Mapping[str, Any]) -> list[str]:
    size, width, text = document["picture"]["size"], document["bits"] // 8, document["network"].get("text")
    pictures = f"uint8 RGB [b, {size}, {size}, 3]"
    texts = ""
    if text:
        words = text["reads"] == "words"
        texts = (
            f"features of texts/, float32 [b, {text['width']}],"
            if words
            else f"token ids, int32 [b, {text['length']}],"
        )
    described = {
        "image.stablehlo": f"`jax.export.deserialize`: {pictures} to uint8 [b, {width}], on CPU, CUDA and TPU",
        "image.onnx": f"ONNX Runtime: `pictures`, {pictures}, to `codes`, uint8 [b, {width}]",
        "text.stablehlo": f"{texts} to uint8 [b, {width}]",
        "text.onnx": f"`texts`, {texts} to `codes`, uint8 [b, {width}]",
    }
    return [f"- `{name}`, {what}" for name, what in described.items() if name in document["files"]]


def _numbers(facts: Mapping[str, Any]) -> str:
    validation = facts["validation"]
    shown = {
        name: value
        for name, value in facts["metrics"].items()
        if SHOWN.fullmatch(name) and not name.endswith(NOT_SHOWN)
    }
    if not shown:
        return f"Not evaluated on queries. {validation['what']}: {validation['score']:.4f}."
    rows = [f"| {_metric(name)} | {value:.4f} |" for name, value in shown.items()]
    rows.append(f"| chosen by: {validation['what']} | {validation['score']:.4f} |")
    return "\n".join(["| | |", "|---|---:|", *rows])


def _metric(name: str) -> str:
    way, _, metric = name.rpartition(" ")
    metric = metric.replace("map@", "mAP@").replace("precision_radius2", "precision within Hamming radius 2")
    return WAYS[way] + metric


def _licences(facts: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- The weights were learned from `{facts['dataset']}`; its terms may restrict what they may be used for."
    ]
    if facts["learned_from"]:
        named = "; ".join(f"`{one}`" for one in facts["learned_from"])
        lines.append(
            f"- They were learned from, or stand on: {named}. What these were trained on has terms too."
        )
    if facts["frozen"]:
        named = ", ".join(f"`{one}`" for one in facts["frozen"])
        lines.append(f"- The folder holds the frozen weights of {named}: pass their licence on with it.")
    return lines
