"""DMTH on CIFAR-100 with ImageNet teachers: two MobileNetV1, a MobileNetV2 and a SqueezeNet, none of which saw the labels.

    python -m kdhash.main --config configs/dmth_cifar100.py --workdir runs/cifar100 \
        --config.data_dir=data --config.weights_dir=weights

Needs data_dir/cifar100_sample, 50 pictures of each class and split (another such sample: python -m kdhash prepare cifar100
--per-class 50, then --config.dataset=cifar100_first50; all of them: cifar100), and in weights_dir the folders or files of the
four teachers.
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

    # Data and protocol: the test split searches the training split (holdout; see the README).
    config.dataset = "cifar100_sample"  # 5,000 training pictures, 5,000 of the test set
    config.image_size = 32
    config.protocol = "holdout"
    config.protocol_seed = 0
    config.validation_per_class = 5  # held out of training, to choose by

    # Devices: 'jit' divides a global batch over all of them, 'pmap' maps shares of it.
    config.mapping = "jit"
    config.host_devices = 8  # where there is only a CPU: train faster than one on two cores
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "float32"  # what training computes in, or bfloat16; see docs/training.md
    config.remat = False  # True: the backward pass computes blocks anew, for less memory

    # Frozen teachers: what network a source holds and what pictures it wants is read from it. The pictures have 32 pixels a
    # side: bringing them to 96 instead of 224 costs a fifth.
    config.teachers = ConfigDict(
        {
            "mobilenet_v2": {"weights": "mobilenet_v2_1.0_224", "image_size": 96},
            "mobilenet_v1_75": {"weights": "mobilenet_v1_0.75_192", "image_size": 96},
            "mobilenet_v1_50": {"weights": "mobilenet_v1_0.5_160", "image_size": 96},
            "squeezenet": {"weights": "squeezenet1_0.pth", "image_size": 96},
        }
    )
    config.features = ConfigDict({"views": ("original", "flip"), "batch_size": 200, "dtype": "float32"})

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
            # Of held-out pictures, which these teachers have not seen.
            "validation_views": both,
            "noise": 1.0,  # on standardised features, in training
            "objective": "cross_entropy",  # or dpsh, dhn, dsh, hashnet, greedyhash, csq, dpn, orthohash, bihalf
            "quantization": 0.1,
            "balance": 0.01,
            "schedule": {
                "epochs": 40.0,
                "batch_size": 128,
                "optimizer": "adamw",
                "learning_rate": 2e-3,
                "weight_decay": 1e-4,
                "warmup_epochs": 0.5,
                "clip_norm": 0.0,
                "checkpoint_every_epochs": 10.0,
                "log_every": 50,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )

    # The student, from scratch: without transfer, taught by the best single teacher, taught by the fused one.
    # (On CIFAR-100 weights.logits=1.0 with 60 epochs nearly doubles what the taught one reaches: docs/results.md.)
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
                "epochs": 25.0,
                "batch_size": 64,
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "weight_decay": 5e-4,
                "warmup_epochs": 0.5,
                "clip_norm": 5.0,
                "checkpoint_every_epochs": 5.0,
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
