"""BRCD on CIFAR-10 without any pretrained network, at full size: a ResNet-18 learns from 45,000 pictures alone, end to end, and
teaches a ResNet-8. No labels. For an accelerator; configs/brcd_scratch.py is the same for a CPU.

    python -m kdhash.main --config configs/brcd_scratch_full.py --workdir runs/brcd_full --config.data_dir=data

Needs data_dir/cifar10 (python -m kdhash prepare cifar10).
"""

from ml_collections import ConfigDict

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.method = "brcd"
    config.seed = 0
    config.seeds = (0,)
    config.bits = 64  # a multiple of 8

    # Places. They may change between starts of the same workdir.
    config.data_dir = "data"
    config.weights_dir = ""
    config.cache_dir = ""
    config.compilation_cache_dir = ""  # empty: .jax_cache beside the workdir; "off": none
    config.data_cache_dir = ""  # of decoded pictures; empty: .data_cache beside the workdir; "off": none

    # Data and protocol: see the README. Epochs are chosen on pictures held out of training.
    config.dataset = "cifar10"
    config.image_size = 32
    config.protocol = "cifar10-2"  # cifar10-brcd trains on 5,000 pictures only
    config.protocol_seed = 0
    config.validation_per_class = 500  # held out of training, to choose epochs by

    # Devices: 'jit' divides a global batch over all of them, 'pmap' maps shares of it.
    config.mapping = "jit"
    config.host_devices = 8  # where there is only a CPU
    config.resident_mib = 4096  # training data of up to so many MiB lie on the devices; 0: none do
    config.profile = 0  # steps of each training to trace, into workdir/profile; 0: none
    config.dtype = "float32"  # what training computes in, or bfloat16; see docs/training.md
    config.remat = False  # True: the backward pass computes blocks anew, for less memory

    # Networks to train, not frozen: 'arch' instead of 'weights'.
    config.backbones = ConfigDict(
        {
            "teacher": {
                "arch": "resnet",
                "sizes": {"depths": (2, 2, 2, 2), "block": "basic", "stem": "cifar"},
                "mean": MEAN,
                "std": STD,
            },
            "student": {"arch": "resnet_cifar", "sizes": {"depth": 8}, "mean": MEAN, "std": STD},
        }
    )
    # Each training picture has this many augmented views, always the same; each step makes two of them on the device.
    config.features = ConfigDict({"contrast_views": 32, "batch_size": 2000, "dtype": "float32"})

    # The base hasher, of the teacher and of every student: 'cibhash', 'greedyhash' or 'bihalf', with its options.
    config.hasher = ConfigDict(
        {
            "base": "cibhash",
            "teacher_hidden": 0,
            "temperature": 0.3,
            "kl_weight": 0.001,
            "quantization": 0.1,  # of greedyhash
            "gamma": 6.0,  # of bihalf
            "schedule": {
                "epochs": 50.0,
                "batch_size": 512,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "weight_decay": 1e-4,
                "warmup_epochs": 2.0,
                "clip_norm": 5.0,
                "checkpoint_every_epochs": 10.0,  # validation encodes the whole database
                "log_every": 87,
                "keep": "best",
                "microbatches": 1,  # parts that a batch goes through the network in
            },
        }
    )

    # k-means of the teacher's codes of the training pictures.
    config.clusters = ConfigDict({"count": 0, "counts": (10, 15, 20, 25, 30, 40, 50), "starts": 5})

    # Weights as in configs/brcd_cifar10.py, not chosen anew.
    config.student = ConfigDict(
        {
            "hidden": 0,
            "rows": ("none", "sp", "kl", "brcd", "brcd_no_mask"),
            "forms": {
                "none": {"kind": "none"},
                "sp": {"kind": "sp", "weight": 300.0},
                "kl": {"kind": "kl", "weight": 3.0, "temperature": 4.0},
                "brcd": {
                    "kind": "brcd",
                    "weight": 5.0,
                    "alpha": 0.8,
                    "mask": "intended",  # or 'published' (all zeros), or 'none'
                    "margin": 0.5,
                    "remove_false_negatives": True,
                    "offset_positives": True,
                    "published": False,
                },
                "brcd_no_mask": {
                    "kind": "brcd",
                    "weight": 5.0,
                    "alpha": 0.8,
                    "mask": "none",
                    "margin": 0.5,
                    "remove_false_negatives": True,
                    "offset_positives": True,
                    "published": False,
                },
            },
            "margins": (),
        }
    )
    config.evaluate = ConfigDict({"ks": (1000, 0)})  # mAP@k; 0 means the whole database
    return config
