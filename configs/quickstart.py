"""The whole river in a minute or two, offline: scikit-learn's handwritten digits, three small teachers trained on the spot.

    bash launch/quickstart.sh

The same stages as configs/dmth_cifar10.py, after a `pretrain` stage that makes the teachers. For your own pictures:
prepare a folder (python -m kdhash prepare folder DIR --name mine), copy this file, and set dataset, data_dir and image_size.
"""

from ml_collections import ConfigDict

# Half-widths of random factors around 1; 0 leaves a colour as it is.
NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.method = "dmth"
    config.seed = 0
    config.bits = 32  # a multiple of 8

    config.data_dir = "data"
    config.weights_dir = "weights"
    config.cache_dir = ""
    config.compilation_cache_dir = ""  # empty: .jax_cache beside the workdir; "off": none
    config.data_cache_dir = ""  # of decoded pictures; empty: .data_cache beside the workdir; "off": none

    config.dataset = "digits"
    config.image_size = 8
    config.protocol = "holdout"
    config.protocol_seed = 0
    config.validation_per_class = 20

    config.mapping = "jit"
    config.host_devices = 1  # too little work to share
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "float32"  # what training computes in, or bfloat16; see docs/training.md
    config.remat = False  # True: the backward pass computes blocks anew, for less memory

    # Three different small teachers, trained by the pretrain stage.
    normal = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    config.teachers = ConfigDict(
        {
            "mlp": {"arch": "mlp", "sizes": {"widths": (256, 64)}, **normal},
            "convnet": {"arch": "convnet", "sizes": {"widths": (32, 32, 64, 64)}, **normal},
            "resnet8": {"arch": "resnet_cifar", "sizes": {"depth": 8, "width": 16}, **normal},
        }
    )
    config.pretrain = ConfigDict(
        {
            "augment": {"pad": 1, "flip": False, "cutout": 0, "noise": 0.0, **NO_JITTER},
            "schedule": {
                "epochs": 15.0,
                "batch_size": 64,
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "weight_decay": 1e-3,
                "warmup_epochs": 1.0,
                "clip_norm": 1.0,
                "checkpoint_every_epochs": 5.0,
                "log_every": 50,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )
    config.features = ConfigDict({"views": ("original",), "batch_size": 256, "dtype": "float32"})

    config.teacher = ConfigDict(
        {
            "rows": ("single", "mean", "concat", "attention_plain", "attention"),
            # kind: mean, concat, attention, or global (learned weights, the same for all pictures). views: what every
            # teacher sees of a picture, one token a view.
            "forms": {
                "single": {"kind": "mean", "views": ("original",)},
                "mean": {"kind": "mean", "views": ("original",)},
                "concat": {"kind": "concat", "views": ("original",)},
                "attention_plain": {"kind": "attention", "views": ("original",), "heads": 1},
                # A head for every channel of the width: each weighs the teachers for itself.
                "attention": {"kind": "attention", "views": ("original",), "heads": 64},
            },
            "width": 64,
            "views": ("original",),
            "validation_views": ("original",),  # these teachers have not seen the validation pictures
            "noise": 0.0,
            "objective": "cross_entropy",  # or dpsh, dhn, dsh, hashnet, greedyhash, csq, dpn, orthohash, bihalf
            "quantization": 0.1,
            "balance": 0.1,
            "schedule": {
                "epochs": 20.0,
                "batch_size": 64,
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "weight_decay": 1e-4,
                "warmup_epochs": 1.0,
                "clip_norm": 0.0,
                "checkpoint_every_epochs": 10.0,
                "log_every": 50,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )

    # The student is small on purpose: a few thousand parameters.
    config.student = ConfigDict(
        {
            "rows": ("plain", "best_single", "fused"),
            "teacher": "attention",
            "arch": "convnet",
            "sizes": {"widths": (8, 8, 16, 16)},
            **normal,
            "augment": {"pad": 1, "flip": False, "cutout": 0, "noise": 0.0, **NO_JITTER},
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
                "epochs": 15.0,
                "batch_size": 64,
                "optimizer": "adamw",
                "learning_rate": 3e-3,
                "weight_decay": 1e-4,
                "warmup_epochs": 1.0,
                "clip_norm": 1.0,
                "checkpoint_every_epochs": 5.0,
                "log_every": 20,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )
    config.evaluate = ConfigDict(
        {
            "ks": (0, 1000, 100),
            "baselines": True,  # float search, ITQ and LSH on the same features
        }
    )
    return config
