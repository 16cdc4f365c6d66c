"""DMTH's student with everything that helps: the aim is 98 % of the fused teacher's mAP at a tenth of the multiply-adds.

    python -m kdhash.main --config configs/dmth_beyond.py --workdir runs/beyond \
        --config.data_dir=data --config.weights_dir=weights

As configs/dmth_cifar10.py, but the student is larger and learns for long, and the teacher answers for the very picture that the
student sees. Meant for an accelerator: there it takes minutes, on a CPU days. Needs what dmth_cifar10.py needs.
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
    config.validation_per_class = 50  # held out of training, to choose by

    # Devices: 'jit' divides a global batch over all of them, 'pmap' maps shares of it.
    config.mapping = "jit"
    config.host_devices = 8  # where there is only a CPU: train faster than one on two cores
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "bfloat16"  # what training computes in, or float32; see docs/training.md
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
            "rows": ("attention_one_view", "attention"),
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

    # The student, from scratch. Four teachers take 332 million multiply-adds a picture, 664 for the picture and its mirror
    # image; this student takes 63 million: a tenth of both views. Depth 14 and width 17 make it 30, a tenth of one.
    config.student = ConfigDict(
        {
            "rows": ("fused",),
            "teacher": "attention_one_view",  # nearly as good as 'attention', at half the work in every step
            "arch": "resnet_cifar",
            "sizes": {"depth": 20, "width": 20},
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            # What the teachers have not seen in their training (colours, holes) makes them say more than the label does.
            "augment": {
                "pad": 4,
                "flip": True,
                "cutout": 8,
                "noise": 0.0,
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
            },
            "objective": "cross_entropy",  # as the teacher's
            "weights": {
                "quantization": 0.1,
                "balance": 0.1,
                "code": 2.0,  # of the teacher: its codes, their relations, fused features, class probabilities
                "relation": 2.0,
                "feature": 0.0,
                "logits": 1.0,
            },
            "temperature": 4.0,  # of class probabilities
            "online": True,  # the teacher sees the very picture that the student does, in every step; False: the whole one
            "schedule": {
                "epochs": 100.0,
                "batch_size": 512,
                "microbatches": 1,  # parts that a batch goes through the network in
                "optimizer": "sgd",
                "learning_rate": 0.4,
                "weight_decay": 5e-4,
                "warmup_epochs": 5.0,
                "clip_norm": 5.0,
                "checkpoint_every_epochs": 20.0,
                "log_every": 100,
                "keep": "last",  # the score on few pictures tells late epochs apart no better than chance
            },
        }
    )
    config.evaluate = ConfigDict(
        {
            "ks": (0, 1000, 100),  # mAP@k and friends; 0 means the whole database
            "baselines": False,  # float search, ITQ and LSH on the same features
        }
    )
    return config
