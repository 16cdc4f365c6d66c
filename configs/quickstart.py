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

    config.dataset = "digits"
    config.image_size = 8
    config.protocol = "holdout"
    config.protocol_seed = 0
    config.validation_per_class = 20

    config.mapping = "jit"
    config.host_devices = 1  # too little work to share

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
            },
        }
    )
    config.features = ConfigDict({"views": ("original",), "batch_size": 256, "dtype": "float32"})

    config.teacher = ConfigDict(
        {
            "rows": ("single", "mean", "concat", "attention_plain", "attention"),
            # kind: mean, concat or attention. views: what every teacher sees of a picture, one token a view.
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
            "weights": {"quantization": 0.1, "balance": 0.1, "code": 2.0, "relation": 2.0, "feature": 0.0},
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
