"""BRCD on CIFAR-10: the codes of an unsupervised hasher on MobileNetV2 teach one on the smallest MobileNetV1. No labels.

    python -m kdhash.main --config configs/brcd_cifar10.py --workdir runs/brcd \
        --config.data_dir=data --config.weights_dir=weights

Needs data_dir/cifar10 (python -m kdhash prepare cifar10) and the folders of two networks in weights_dir. Both stay frozen:
hash heads learn on their cached features of the pictures and of a few augmented views of the training pictures.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.method = "brcd"
    config.seed = 0  # of what is not trained (LSH, the pictures shown); training has its own:
    config.seeds = (0, 1, 2)  # a teacher, its clusters and all students for each
    config.bits = 64  # a multiple of 8

    # Places. They may change between starts of the same workdir.
    config.data_dir = "data"
    config.weights_dir = "weights"
    config.cache_dir = ""  # of features; empty: workdir/features
    config.compilation_cache_dir = ""  # empty: .jax_cache beside the workdir; "off": none
    config.data_cache_dir = ""  # of decoded pictures; empty: .data_cache beside the workdir; "off": none

    # Data and protocol: see the README. Epochs are chosen on the protocol's validation queries.
    config.dataset = "cifar10"
    config.image_size = 32
    config.protocol = "cifar10-brcd"
    config.protocol_seed = 0
    config.validation_per_class = 0  # cifar10-brcd has 500 of its own

    # Devices: 'jit' divides a global batch over all of them, 'pmap' maps shares of it.
    config.mapping = "jit"
    config.host_devices = 8  # where there is only a CPU
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "float32"  # what training computes in, or bfloat16; see docs/training.md
    config.remat = False  # True: the backward pass computes blocks anew, for less memory

    # Frozen backbones: what network a source holds and what pictures it wants is read from it.
    config.backbones = ConfigDict(
        {
            "teacher": {"weights": "mobilenet_v2_1.0_224", "image_size": 96},
            "student": {"weights": "mobilenet_v1_0.25_128", "image_size": 96},
        }
    )
    # How many augmented views of each training picture are cached; each step draws two of them.
    config.features = ConfigDict({"contrast_views": 8, "batch_size": 200, "dtype": "float32"})

    # The base hasher, of the teacher and of every student: 'cibhash', 'greedyhash' or 'bihalf', with its options.
    config.hasher = ConfigDict(
        {
            "base": "cibhash",
            "teacher_hidden": 1024,  # width of a layer between features and bits; 0 for none
            "temperature": 0.3,
            "kl_weight": 0.001,
            "quantization": 0.1,  # of greedyhash
            "gamma": 6.0,  # of bihalf
            "schedule": {
                "epochs": 30.0,
                "batch_size": 64,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "weight_decay": 1e-4,
                "warmup_epochs": 1.0,
                "clip_norm": 5.0,
                "checkpoint_every_epochs": 5.0,
                "log_every": 100,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )

    # k-means of the teacher's codes of the training pictures.
    config.clusters = ConfigDict(
        {
            "count": 0,  # 0: the elbow of these counts
            "counts": (5, 10, 15, 20, 25, 30, 40, 50),
            "starts": 30,
        }
    )

    # Students on one backbone and schedule; what each learns from the teacher beside its own loss. The weights are the best
    # of a few tried, on validation queries with seed 0 (.3 to 10 and the like for each form).
    right = {
        "kind": "brcd",
        "weight": 5.0,
        "alpha": 0.8,
        "mask": "intended",  # or 'published' (all zeros), or 'none'
        "margin": 0.5,
        "remove_false_negatives": True,
        "offset_positives": True,
        "published": False,
    }
    config.student = ConfigDict(
        {
            "hidden": 512,  # width of a layer between features and bits; 0 for none, and then features are regressed to in vain
            "rows": (
                "none",
                "feature",
                "kl",
                "rkd",
                "sp",
                "pkt",
                "crd",
                "brcd_published",
                "brcd",
                "brcd_no_mask",
                "brcd_no_removal",
                "brcd_no_offset",
                "brcd_alpha_1",
            ),
            "forms": {
                "none": {"kind": "none"},
                "feature": {"kind": "feature", "weight": 30.0},
                "kl": {"kind": "kl", "weight": 3.0, "temperature": 4.0},
                "rkd": {"kind": "rkd", "weight": 10.0},
                "sp": {"kind": "sp", "weight": 300.0},
                "pkt": {"kind": "pkt", "weight": 10000.0},
                "crd": {"kind": "crd", "weight": 30.0, "temperature": 1.0},
                "brcd": right,
                "brcd_published": right | {"mask": "published", "published": True},
                "brcd_no_mask": right | {"mask": "none"},
                "brcd_no_removal": right | {"remove_false_negatives": False},
                "brcd_no_offset": right | {"offset_positives": False},
                "brcd_alpha_1": right | {"alpha": 1.0},
            },
            # The study of masks: the student 'brcd' of the first seed with each of these margins; () for none.
            "margins": (0.1, 0.3, 0.5, 0.7, 0.9),
        }
    )
    config.evaluate = ConfigDict({"ks": (1000, 0)})  # mAP@k; 0 means the whole database
    return config
