"""The students and two of the training losses of kdhash once more, in PyTorch, for comparisons: modules are made in the
order in which kdhash makes its parameters, so that `copy_weights` needs no names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]


def unit(
    i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU
) -> nn.Sequential:
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), *([act()] if act else []))


class Basic(nn.Module):
    """Two 3x3 convolutions; where the shape changes a 1x1 projection, or zero channels beside a strided x."""

    def __init__(self, i: int, o: int, stride: int, project: bool):
        super().__init__()
        self.first, self.second = unit(i, o, 3, stride), unit(o, o, act=None)
        self.stride, self.gap = stride, o - i
        changes = stride != 1 or i != o
        self.shortcut = unit(i, o, 1, stride, act=None) if project and changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride != 1 or self.gap:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.gap // 2, self.gap - self.gap // 2))
        return F.relu(y + x)


class Inverted(nn.Module):
    def __init__(self, i: int, o: int, stride: int, inner: int):
        super().__init__()
        expand = [unit(i, inner, 1, act=nn.ReLU6)] if inner != i else []
        self.layers = nn.Sequential(
            *expand, unit(inner, inner, 3, stride, inner, nn.ReLU6), unit(inner, o, 1, act=None)
        )
        self.adds = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def blocks(widths: Sequence[int], depth: int, first: int, project: bool) -> list[nn.Module]:
    layers, last = [], first
    for stage, width in enumerate(widths):
        for block in range(depth):
            layers.append(Basic(last, width, 2 if stage and not block else 1, project))
            last = width
    return layers


def layers_of(name: str) -> tuple[list[nn.Module], int]:
    """The layers of resnet8, resnet20, resnet18 (stem for small pictures) or mobilenet_v2, and the width of its features."""
    if name in ("resnet8", "resnet20"):
        depth = (int(name.removeprefix("resnet")) - 2) // 6
        return [unit(3, 16), *blocks((16, 32, 64), depth, 16, project=False)], 64
    if name == "resnet18":
        return [unit(3, 64), *blocks((64, 128, 256, 512), 2, 64, project=True)], 512
    layers: list[nn.Module] = [unit(3, 32, 3, 2, act=nn.ReLU6), Inverted(32, 16, 1, 32)]
    last = 16
    stages = ((24, 2, 2), (32, 2, 3), (64, 2, 4), (96, 1, 3), (160, 2, 3), (320, 1, 1))
    for width, stride, repeats in stages:
        for block in range(repeats):
            layers.append(Inverted(last, width, 1 if block else stride, 6 * last))
            last = width
    return [*layers, unit(last, 1280, 1, act=nn.ReLU6)], 1280


class Backbone(nn.Module):
    """Pictures [batch, 3, h, w] in [0, 1] to features [batch, width]."""

    def __init__(self, name: str, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        layers, self.width = layers_of(name)
        self.layers = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers((pictures - self.mean) / self.std).float().mean(dim=(2, 3))


class DmthHead(nn.Module):
    """Hash head and loss of a DMTH student: cross entropy, code and relation to the teacher's, quantisation, balance."""

    def __init__(self, width: int, bits: int, classes: int, weights: dict[str, float]):
        super().__init__()
        self.hash, self.classifier, self.weights = nn.Linear(width, bits), nn.Linear(bits, classes), weights

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        codes = torch.tanh(self.hash(features))
        teacher, w = batch["teacher_codes"], self.weights
        own = (F.normalize(codes, eps=1e-8) * F.normalize(teacher, eps=1e-8)).sum(dim=1)
        return (
            F.cross_entropy(self.classifier(codes), batch["label"])
            + w["code"] * (1 - own).mean()
            + w["relation"] * relational(codes, teacher)
            + w["quantization"] * ((codes.abs() - 1) ** 2).mean()
            + w["balance"] * (codes.mean(dim=0) ** 2).mean()
        )


class BrcdHead(nn.Module):
    """Hash layer and loss of a BRCD student on CIBHash: the features are those of all first views, then of all second."""

    def __init__(self, width: int, bits: int, centers: Tensor, masks: Tensor, weight: float):
        super().__init__()
        self.standardize = nn.BatchNorm1d(width, affine=False)
        self.bits, self.weight = nn.Linear(width, bits), weight
        self.register_buffer("centers", centers)
        self.register_buffer("masks", masks)

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        logits_i, logits_j = self.bits(self.standardize(features)).chunk(2)
        kl = (bernoulli_kl(logits_i, logits_j) + bernoulli_kl(logits_j, logits_i)) / 2
        codes_i, codes_j = (straight_through(torch.sigmoid(x) - 0.5) for x in (logits_i, logits_j))
        taught = brcd(
            codes_i,
            batch["teacher_codes_i"],
            batch["teacher_codes_j"],
            batch["cluster"],
            self.centers,
            self.masks,
        )
        return nt_xent(codes_i, codes_j) + 0.001 * kl + self.weight * taught


def straight_through(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0) + (x - x.detach())


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, eps=1e-8) @ F.normalize(b, eps=1e-8).T


def bernoulli_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    def term(x: Tensor, y: Tensor) -> Tensor:
        a, b = torch.sigmoid(x), torch.sigmoid(y.detach())
        return a * (torch.log(a + 1e-8) - torch.log(b + 1e-8))

    return (term(logits_p, logits_q) + term(-logits_p, -logits_q)).sum(dim=1).mean()


def nt_xent(codes_i: Tensor, codes_j: Tensor, temperature: float = 0.3) -> Tensor:
    rows = torch.cat([codes_i, codes_j])
    logits = (cosines(rows, rows) / temperature).fill_diagonal_(float("-inf"))
    partner = torch.arange(len(rows), device=rows.device).roll(len(codes_i))
    return F.cross_entropy(logits, partner)


def relational(codes: Tensor, teacher: Tensor) -> Tensor:
    return ((cosines(codes, codes) - cosines(teacher, teacher)) ** 2).mean()


def brcd(
    codes: Tensor,
    teacher: Tensor,
    other: Tensor,
    clusters: Tensor,
    centers: Tensor,
    masks: Tensor,
    alpha: float = 0.8,
    temperature: float = 0.3,
) -> Tensor:
    count, place = len(codes), torch.arange(2 * len(codes), device=codes.device)
    other_clusters = torch.cdist(other, centers).argmin(dim=1)
    alphas = torch.where(clusters == other_clusters, alpha, 1.0).tile(2)
    own = (F.normalize(codes, eps=1e-8) * F.normalize(teacher, eps=1e-8)).sum(dim=1)
    kept = masks[clusters]
    rows = torch.cat([codes * kept, other * kept])
    logits = cosines(rows, rows) / temperature
    partner = place.roll(count)
    positive = alphas * own.tile(2) / temperature + (1 - alphas) * logits[place, partner]
    both = torch.cat([clusters, other_clusters])
    left_out = (place[:, None] == place) | (partner[:, None] == place) | (both[:, None] == both)
    candidates = torch.cat([positive[:, None], logits.masked_fill(left_out, float("-inf"))], dim=1)
    return (torch.logsumexp(candidates, dim=1) - positive).mean()


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    def relative(x: Tensor) -> Tensor:
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        return distances / (distances.sum() / (len(x) * (len(x) - 1)))

    return F.smooth_l1_loss(relative(student), relative(teacher))


def similarity_likelihood(image: Tensor, text: Tensor, similarity: Tensor) -> Tensor:
    theta = image @ text.T / 2
    return (similarity * F.softplus(-theta) + (1 - similarity) * F.softplus(theta)).mean()


def copy_weights(arrays: Sequence[np.ndarray], *modules: nn.Module) -> None:
    """Puts kdhash's parameters, in the order in which it makes them, into those of the modules, in theirs."""
    targets = [parameter for module in modules for parameter in module.parameters()]
    for array, target in zip(arrays, targets, strict=True):
        moved = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        if moved.shape != tuple(target.shape):
            raise ValueError(f"a parameter is {moved.shape} in kdhash and {tuple(target.shape)} in PyTorch")
        with torch.no_grad():
            target.copy_(torch.from_numpy(np.array(moved)))


def forward_work(backbone: Backbone, size: int) -> tuple[float, float, float]:
    """(FLOPs, elements that convolutions read, elements that they write) of one picture's forward pass."""
    work = [0.0, 0.0, 0.0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        work[0] += 2 * output.numel() * module.weight[0].numel()
        work[1] += inputs[0].numel()
        work[2] += output.numel()

    convs = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_hook(count) for module in convs]
    backbone.eval()(torch.zeros(1, 3, size, size))
    backbone.train()
    for handle in handles:
        handle.remove()
    return work[0], work[1], work[2]
