"""What comes in: named data sets, protocols, batches, augmentation. `kdhash.data.cli` prepares data sets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdhash.data.augment import (
        add_noise,
        augment_images,
        color_jitter,
        cutout,
        example_keys,
        normalize,
        random_crop,
        random_flip,
        resized_crop,
    )
    from kdhash.data.contrast import contrast_view, gaussian_blur, grayscale, hue_shift, random_apply
    from kdhash.data.pair_protocols import make_pair_protocol
    from kdhash.data.pairs import PairDataset, load_pairs
    from kdhash.data.pipeline import batches, device_prefetch
    from kdhash.data.protocols import Protocol, check_overlap, load_protocol, make_protocol, save_protocol
    from kdhash.data.sources import ArrayImages, ImageDataset, ImageSource, TfdsImages, load_dataset, subset
    from kdhash.data.texts import (
        TextFeatures,
        Vocabulary,
        WordVectors,
        average_vectors,
        count_words,
        fit_vocabulary,
        load_word_vectors,
        tokenize,
    )

__all__ = [
    "ArrayImages",
    "ImageDataset",
    "ImageSource",
    "PairDataset",
    "Protocol",
    "TextFeatures",
    "TfdsImages",
    "Vocabulary",
    "WordVectors",
    "add_noise",
    "augment_images",
    "average_vectors",
    "batches",
    "check_overlap",
    "color_jitter",
    "contrast_view",
    "count_words",
    "cutout",
    "device_prefetch",
    "example_keys",
    "fit_vocabulary",
    "gaussian_blur",
    "grayscale",
    "hue_shift",
    "load_dataset",
    "load_pairs",
    "load_protocol",
    "load_word_vectors",
    "make_pair_protocol",
    "make_protocol",
    "normalize",
    "random_apply",
    "random_crop",
    "random_flip",
    "resized_crop",
    "save_protocol",
    "subset",
    "tokenize",
]

# Each is imported when it is first asked for: whoever only decodes a picture starts no JAX.
_HOMES = {
    "augment": (
        "add_noise",
        "augment_images",
        "color_jitter",
        "cutout",
        "example_keys",
        "normalize",
        "random_crop",
        "random_flip",
        "resized_crop",
    ),
    "contrast": ("contrast_view", "gaussian_blur", "grayscale", "hue_shift", "random_apply"),
    "pair_protocols": ("make_pair_protocol",),
    "pairs": ("PairDataset", "load_pairs"),
    "pipeline": ("batches", "device_prefetch"),
    "protocols": ("Protocol", "check_overlap", "load_protocol", "make_protocol", "save_protocol"),
    "sources": ("ArrayImages", "ImageDataset", "ImageSource", "TfdsImages", "load_dataset", "subset"),
    "texts": (
        "TextFeatures",
        "Vocabulary",
        "WordVectors",
        "average_vectors",
        "count_words",
        "fit_vocabulary",
        "load_word_vectors",
        "tokenize",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"kdhash.data.{module}"), name)
    raise AttributeError(f"module 'kdhash.data' has no attribute {name!r}")
