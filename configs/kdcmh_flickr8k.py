"""KDCMH on Flickr8k: pictures by texts and texts by pictures, learned without labels.

    python -m kdhash.main --config configs/kdcmh_flickr8k.py --workdir runs/flickr8k \
        --config.data_dir=data --config.weights_dir=weights

Needs data_dir/flickr8k_128 (see docs/kdcmh.md; any folder of pairs does), data_dir/glove_twitter_25d.npz, and the folders of two
networks in weights_dir. These stay frozen: small hash heads learn on their cached features, and on words and word vectors.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.method = "kdcmh"
    config.seed = 0  # of what is not trained (the pictures shown); training has its own:
    config.seeds = (0, 1, 2)  # a teacher and all students for each
    config.bits = 64  # a multiple of 8

    # Places. They may change between starts of the same workdir.
    config.data_dir = "data"
    config.weights_dir = "weights"
    config.cache_dir = ""  # of features; empty: workdir/features
    config.compilation_cache_dir = ""  # empty: .jax_cache beside the workdir; "off": none

    # Data and protocol: see docs/kdcmh.md. Epochs are chosen on validation pairs.
    config.dataset = "flickr8k_128"
    config.image_size = 128
    # What is to be said with every number of a data set, by its name.
    config.labels_note = ConfigDict(
        {
            "flickr8k_128": "The labels come from the captions: twelve tags, each given where two or more of a picture's five "
            "captions have one of its words. So texts know more of them than pictures do, and every mAP says so."
        }
    )
    config.protocol = "pairs"
    config.protocol_seed = 0
    config.train = 5000  # of the database; 0 for all that is not validation
    config.validation = 500  # of the database, not trained on

    # Devices: 'jit' divides a global batch over all of them, 'pmap' maps shares of it.
    config.mapping = "jit"
    config.host_devices = 8  # where there is only a CPU
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "float32"  # what training computes in, or bfloat16; see docs/training.md
    config.remat = False  # True: the backward pass computes blocks anew, for less memory

    # Frozen networks of pictures, for the teacher and for all students. (Data with ready features need none.)
    config.images = ConfigDict(
        {
            "teacher": {"weights": "mobilenet_v2_1.0_224", "image_size": 128},
            "student": {"weights": "mobilenet_v1_0.25_128", "image_size": 128},
        }
    )
    # What texts become: counts of the most frequent words of training texts, and averaged word vectors ('' for none). Or the
    # features of a frozen text tower: {"weights": "hf://openai/clip-vit-base-patch32"}.
    config.texts = ConfigDict(
        {
            "teacher": {"words": 2000, "vectors": "glove_twitter_25d.npz"},
            "student": {"words": 1000, "vectors": "glove_twitter_25d.npz"},
        }
    )
    config.features = ConfigDict({"batch_size": 200, "dtype": "float32"})

    # Stage 1: the fused similarity of the teacher's features over all training pairs: shares of pictures, of texts, and of
    # both together; thresholds in deviations from the mode; how strongly what lies beyond is pushed outwards.
    config.similarity = ConfigDict(
        {"weights": (0.5, 0.5, 0.0), "k_left": 2.0, "k_right": 2.0, "l1": 0.2, "l2": 0.2, "mu": 1.4}
    )

    # The student learns the similarity of the teacher's codes: real-valued, or of 'pairs' most similar pairs and no others.
    # Weights, shares and scale are the best of a few tried, on validation pairs with seed 0.
    right = {
        "kind": "kdcmh",
        "pairs": 0,
        "scale": 4.0,  # of the likelihood, DCMH's is bits / 2
        "intra": 0.1,  # within pictures and within texts
        "quantization": 0.003,
        "balance": 0.0,
    }
    # Both modalities' hash heads: width of a layer between features and bits, 0 for none.
    config.teacher = ConfigDict({"image_hidden": 1024, "text_hidden": 1024, "intra": 0.1})
    config.student = ConfigDict(
        {
            "image_hidden": 256,
            "text_hidden": 256,
            "rows": ("kdcmh", "kdcmh_top_pairs", "direct", "djsrh", "jdsh", "dsah", "ucch"),
            "forms": {
                "kdcmh": right,
                "kdcmh_top_pairs": right | {"pairs": 2000000, "scale": 8.0},
                "direct": {"kind": "fused", "intra": 0.1},
                "djsrh": {"kind": "djsrh", "beta": 0.6, "eta": 0.4, "mu": 1.5, "intra": 0.1},
                "jdsh": {"kind": "jdsh", "weights": (0.4, 0.3, 0.3), "intra": 0.1},
                "dsah": {"kind": "dsah", "alpha": 0.5, "scale": 1.5},
                "ucch": {"kind": "ucch", "temperature": 0.2, "margin": 0.2},
            },
        }
    )
    config.schedule = ConfigDict(
        {
            "epochs": 40.0,
            "batch_size": 128,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "warmup_epochs": 1.0,
            "clip_norm": 5.0,
            "checkpoint_every_epochs": 5.0,
            "log_every": 39,
            "keep": "best",
            "microbatches": 1,  # parts that a batch goes through the network in
        }
    )
    config.evaluate = ConfigDict({"ks": (50, 0)})  # mAP@k; 0 means the whole database
    return config
