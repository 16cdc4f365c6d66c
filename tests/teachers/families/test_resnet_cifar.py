"""CIFAR ResNets against a plain PyTorch network of the paper's section 4.2, option A."""

import pytest

from tests.teachers.families.parity import assert_parity, need, randomized


def reference_network(depth, classes):
    """With the module names of github.com/akamaster/pytorch_resnet_cifar10."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, before, width, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.stride, self.gap = stride, width - before

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if self.stride > 1:  # every other pixel; new channels of zeros, half before and half behind
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.gap // 2, self.gap // 2))
            return functional.relu(x + y)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            blocks = (depth - 2) // 6
            self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
            self.layer2 = nn.Sequential(*(Block(32 if i else 16, 32, 1 if i else 2) for i in range(blocks)))
            self.layer3 = nn.Sequential(*(Block(64 if i else 32, 64, 1 if i else 2) for i in range(blocks)))
            self.linear = nn.Linear(64, classes)

        def forward(self, x):
            x = functional.relu(self.bn1(self.conv1(x)))
            spatial = self.layer3(self.layer2(self.layer1(x)))
            features = spatial.mean(dim=(2, 3))
            return {"spatial": spatial, "features": features, "logits": self.linear(features)}

    return Network()


@pytest.mark.parametrize("depth", [8, 14])
def test_equals_pytorch(depth):
    need("torch")
    net = randomized(reference_network(depth, classes=5))
    assert_parity("resnet_cifar", "akamaster", {"depth": depth}, net, net, image_sizes=(32, 41))
