"""DMTH on CIFAR-10: four frozen CIFAR ResNets, fused by attention, teach a ResNet-8 to write 64-bit codes.

    python -m kdhash.main --config configs/dmth_cifar10.py --workdir runs/dmth \
        --config.data_dir=data --config.weights_dir=weights

Needs data_dir/cifar10 (python -m kdhash prepare cifar10) and in weights_dir the four .th files of
github.com/akamaster/pytorch_resnet_cifar10. Result: see the README's table.
"""

from ml_collections import ConfigDict

# Half-widths of random factors around 1; 0 leaves a colour as it is.
NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.method = "dmth"
    config.seed = 0
    config.bits = 64  # a multiple of 8

    # Places. They may change between starts of the same workdir.
    config.data_dir = "data"
    config.weights_dir = "weights"
    config.cache_dir = ""  # of teacher features; empty: workdir/features
    config.compilation_cache_dir = ""  # empty: .jax_cache beside the workdir; "off": none
    config.data_cache_dir = ""  # of decoded pictures; empty: .data_cache beside the workdir; "off": none

    # Data and protocol (cifar10-1, cifar10-2, holdout; see the README).
    config.dataset = "cifar10"
    config.image_size = 32
    config.protocol = "cifar10-2"
    config.protocol_seed = 0
    config.validation_per_class = 500  # held out of training, to choose by

    # Devices: 'jit' divides a global batch over all of them, 'pmap' maps shares of it.
    config.mapping = "jit"
    config.host_devices = 8  # where there is only a CPU: train faster than one on two cores
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "float32"  # what training computes in, or bfloat16; see docs/training.md
    config.remat = False  # True: the backward pass computes blocks anew, for less memory

    # Frozen teachers: what network a file holds and what pictures it wants is read from the file.
    config.teachers = ConfigDict()
    for depth, digest in ((20, "12fca82f"), (32, "d509ac18"), (44, "014dd654"), (56, "4bfd9763")):
        config.teachers[f"resnet{depth}"] = ConfigDict({"weights": f"resnet{depth}-{digest}.th"})
    # dtype: what the teachers compute in, float32 or bfloat16; cached features are float32.
    config.features = ConfigDict(
        {"views": ("original", "flip", "augment1", "augment2"), "batch_size": 1000, "dtype": "float32"}
    )

    # Hash heads on cached features: every teacher alone, and every form of fusion.
    both = ("original", "flip")
    one_head = {"heads": 1, "temperature": 1.0, "teacher_dropout": 0.0}
    # A head for every channel of the width: each weighs the teachers for itself.
    channels = {"heads": 64, "temperature": 1.0, "teacher_dropout": 0.0}
    config.teacher = ConfigDict(
        {
            "rows": (
                "single",
                "single_mirrored",
                "mean",
                "concat",
                "attention_plain",
                "attention_one_view",
                "mean_mirrored",
                "attention",
            ),
            # kind: mean, concat, attention, or global (learned weights, the same for all pictures). views: what every
            # teacher sees of a picture, one token a view.
            "forms": {
                "single": {"kind": "mean", "views": ("original",)},
                "single_mirrored": {"kind": "mean", "views": both},
                "mean": {"kind": "mean", "views": ("original",)},
                "concat": {"kind": "concat", "views": ("original",)},
                "attention_plain": {"kind": "attention", "views": ("original",), **one_head},
                "attention_one_view": {"kind": "attention", "views": ("original",), **channels},
                "mean_mirrored": {"kind": "mean", "views": both},
                "concat_mirrored": {"kind": "concat", "views": both},
                "global": {"kind": "global", "views": both},
                "attention": {"kind": "attention", "views": both, **channels},
            },
            "width": 64,
            "views": both,  # forms that see one view are trained on either
            # Of held-out pictures: the teachers know the originals by heart.
            "validation_views": ("augment1", "augment2"),
            "noise": 1.0,  # on standardised features, in training
            "objective": "cross_entropy",  # or dpsh, dhn, dsh, hashnet, greedyhash, csq, dpn, orthohash, bihalf
            "quantization": 0.1,
            "balance": 0.01,
            "schedule": {
                "epochs": 12.0,
                "batch_size": 512,
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "weight_decay": 1e-4,
                "warmup_epochs": 0.5,
                "clip_norm": 0.0,
                "checkpoint_every_epochs": 4.0,
                "log_every": 100,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )

    # The student, from scratch: without transfer, taught by the best single teacher, taught by the fused one.
    config.student = ConfigDict(
        {
            "rows": ("plain", "best_single", "fused"),
            "teacher": "attention",  # the form of fusion that teaches
            "arch": "resnet_cifar",
            "sizes": {"depth": 8},  # or 20
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "augment": {"pad": 4, "flip": True, "cutout": 0, "noise": 0.0, **NO_JITTER},
            "objective": "cross_entropy",  # as the teacher's
            "weights": {
                "quantization": 0.1,
                "balance": 0.1,
                "code": 2.0,  # of the teacher: its codes, their relations, fused features, class probabilities
                "relation": 2.0,
                "feature": 0.0,
                "logits": 0.0,
            },
            "temperature": 4.0,  # of class probabilities
            "online": False,  # True: the teacher sees the very picture that the student does, in every step
            "schedule": {
                "epochs": 10.0,
                "batch_size": 128,
                "optimizer": "sgd",
                "learning_rate": 0.1,
                "weight_decay": 5e-4,
                "warmup_epochs": 0.5,
                "clip_norm": 5.0,
                "checkpoint_every_epochs": 1.0,
                "log_every": 50,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )
    config.evaluate = ConfigDict(
        {
            "ks": (0, 1000, 100),  # mAP@k and friends; 0 means the whole database
            "baselines": True,  # float search, ITQ and LSH on the same features
        }
    )
    return config
