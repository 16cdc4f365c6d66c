"""KDCMH on Wikipedia (Rasiwasia et al. 2010): 2,866 articles and their pictures, 10 classes, as ready features.

    python -m kdhash.main --config configs/kdcmh_wikipedia.py --workdir runs/wikipedia --config.data_dir=data

Needs data_dir/wikipedia2010.npz: pictures are 128 counts of visual words, texts are shares of 10 topics. Three seeds of a
teacher and seven students took four minutes of computing, nine by the clock on two cores with other work beside.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.method = "kdcmh"
    config.seed = 0
    config.seeds = (0, 1, 2)  # a teacher and all students for each
    config.bits = 64  # a multiple of 8

    # Places. They may change between starts of the same workdir.
    config.data_dir = "data"
    config.weights_dir = ""
    config.cache_dir = ""
    config.compilation_cache_dir = ""  # empty: .jax_cache beside the workdir; "off": none

    # Data and protocol: see docs/kdcmh.md. Epochs are chosen on validation pairs.
    config.dataset = "wikipedia2010"
    config.image_size = 0
    config.protocol = "pairs"
    config.protocol_seed = 0
    config.train = 0  # of the database; 0 for all that is not validation
    config.validation = 200  # of the database, not trained on

    # Devices: 'jit' divides a global batch over all of them, 'pmap' maps shares of it.
    config.mapping = "jit"
    config.host_devices = 8  # where there is only a CPU
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "float32"  # what training computes in, or bfloat16; see docs/training.md
    config.remat = False  # True: the backward pass computes blocks anew, for less memory

    # The data come with features: no networks of pictures, no words.
    config.images = ConfigDict()
    config.texts = ConfigDict()
    config.features = ConfigDict({"batch_size": 200, "dtype": "float32"})

    # Stage 1: the fused similarity of the features over all training pairs: shares of pictures, of texts, and of both
    # together; thresholds in deviations from the mode; how strongly what lies beyond is pushed outwards. Pictures say little
    # here.
    config.similarity = ConfigDict(
        {"weights": (0.1, 0.7, 0.2), "k_left": 2.0, "k_right": 2.0, "l1": 0.2, "l2": 0.2, "mu": 1.4}
    )

    # The student learns the similarity of the teacher's codes: real-valued, or of 'pairs' most similar pairs and no others.
    right = {
        "kind": "kdcmh",
        "pairs": 0,
        "scale": 4.0,  # of the likelihood, DCMH's is bits / 2
        "intra": 0.1,  # within pictures and within texts
        "quantization": 0.003,
        "balance": 0.0,
    }
    # Both modalities' hash heads: width of a layer between features and bits, 0 for none.
    config.teacher = ConfigDict({"image_hidden": 512, "text_hidden": 512, "intra": 0.3})
    config.student = ConfigDict(
        {
            "image_hidden": 256,
            "text_hidden": 256,
            "rows": ("kdcmh", "kdcmh_top_pairs", "direct", "djsrh", "jdsh", "dsah", "ucch"),
            "forms": {
                "kdcmh": right,
                "kdcmh_top_pairs": right | {"pairs": 400000, "scale": 8.0},
                "direct": {"kind": "fused", "intra": 0.3},
                "djsrh": {"kind": "djsrh", "beta": 0.3, "eta": 0.4, "mu": 1.5, "intra": 0.3},
                "jdsh": {"kind": "jdsh", "weights": (0.1, 0.7, 0.2), "intra": 0.3},
                "dsah": {"kind": "dsah", "alpha": 0.1, "scale": 1.5},
                "ucch": {"kind": "ucch", "temperature": 0.2, "margin": 0.2},
            },
        }
    )
    config.schedule = ConfigDict(
        {
            "epochs": 60.0,
            "batch_size": 128,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "warmup_epochs": 1.0,
            "clip_norm": 5.0,
            "checkpoint_every_epochs": 10.0,
            "log_every": 15,
            "keep": "best",
            "microbatches": 1,  # parts that a batch goes through the network in
        }
    )
    config.evaluate = ConfigDict({"ks": (50, 0)})  # mAP@k; 0 means the whole database
    return config
