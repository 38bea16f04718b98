"""Published results: value, protocol and source; without torch."""

from __future__ import annotations

from dataclasses import dataclass

from reslightning.models.architectures import get_architecture

PAPER = "arXiv:1512.03385"
PRE_ACTIVATION = "arXiv:1603.05027"


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        arch: the network's name in the table of architectures.
        dataset: the data set's class name.
        top1: top-1 error in percent; None where not published.
        top5: top-5 error in percent; None where not published.
        protocol: how it was evaluated: center (one crop, on CIFAR the whole image) or ten-crop.
        source: where it stands.
        shortcut: the shortcut option, where the source compares several.
        recipe: the recipe, where a source has several.
    """

    arch: str
    dataset: str
    top1: float | None
    top5: float | None
    protocol: str
    source: str
    shortcut: str | None = None
    recipe: str = "paper"


def _cifar10(arch: str, top1: float, source: str = f"{PAPER}, Table 6") -> Published:
    return Published(arch, "CIFAR10", top1, None, "center", source)


def _ten_crop(arch: str, top1: float, top5: float | None, table: int, shortcut: str | None = None) -> Published:
    return Published(arch, "ImageNet", top1, top5, "ten-crop", f"{PAPER}, Table {table}", shortcut)


def _torchvision(arch: str, recipe: str, accuracy1: float, accuracy5: float) -> Published:
    top1, top5 = round(100 - accuracy1, 3), round(100 - accuracy5, 3)
    return Published(arch, "ImageNet", top1, top5, "center", f"torchvision {recipe}", recipe=recipe)


PUBLISHED: tuple[Published, ...] = (
    _cifar10("resnet20", 8.75),
    _cifar10("resnet32", 7.51),
    _cifar10("resnet44", 7.17),
    _cifar10("resnet56", 6.97),
    _cifar10("resnet110", 6.43),
    _cifar10("resnet1202", 7.93),
    _cifar10("resnet164", 5.46, f"{PRE_ACTIVATION}, Table 4"),
    _cifar10("resnet1001", 4.92, f"{PRE_ACTIVATION}, Table 4"),
    Published("resnet164", "CIFAR100", 24.33, None, "center", f"{PRE_ACTIVATION}, Table 4"),
    Published("resnet1001", "CIFAR100", 22.71, None, "center", f"{PRE_ACTIVATION}, Table 4"),
    _ten_crop("plain18", 27.94, None, 2),
    _ten_crop("resnet18", 27.88, None, 2, "A"),
    _ten_crop("plain34", 28.54, 10.02, 3),
    _ten_crop("resnet34", 25.03, 7.76, 3, "A"),
    _ten_crop("resnet34", 24.52, 7.46, 3, "B"),
    _ten_crop("resnet34", 24.19, 7.40, 3, "C"),
    _ten_crop("resnet50", 22.85, 6.71, 3, "B"),
    _ten_crop("resnet101", 21.75, 6.05, 3, "B"),
    _ten_crop("resnet152", 21.43, 5.71, 3, "B"),
    _torchvision("resnet18", "IMAGENET1K_V1", 69.758, 89.078),
    _torchvision("resnet34", "IMAGENET1K_V1", 73.314, 91.420),
    _torchvision("resnet50", "IMAGENET1K_V1", 76.130, 92.862),
    _torchvision("resnet101", "IMAGENET1K_V1", 77.374, 93.546),
    _torchvision("resnet152", "IMAGENET1K_V1", 78.312, 94.046),
    _torchvision("resnet50", "IMAGENET1K_V2", 80.858, 95.434),
    _torchvision("resnet101", "IMAGENET1K_V2", 81.886, 95.780),
    _torchvision("resnet152", "IMAGENET1K_V2", 82.284, 96.002),
    *(
        Published("resnet50", "ImageNet", round(100 - top1, 2), None, "center", "timm, arXiv:2110.00476", recipe=recipe)
        for recipe, top1 in (("A1", 80.4), ("A2", 79.8), ("A3", 78.1))
    ),
)


TEST_IMAGES = {"CIFAR10": 10_000, "CIFAR100": 10_000, "ImageNet": 50_000}


def published(
    arch: str,
    dataset: str,
    protocol: str,
    shortcut: str | None = None,
    version: str | None = None,
    *,
    images: int | None = None,
) -> Published | None:
    """Return the first published result for a network on a data set by a protocol.

    None where there is none, also for a shortcut or version other than the network's own (None), and
    for a test set of other than all of its images, where their number is given.
    """
    if images is not None and images != TEST_IMAGES.get(dataset, images):
        return None
    own = get_architecture(arch)
    if (shortcut or own.shortcut, version or own.version) != (own.shortcut, own.version):
        return None
    for row in PUBLISHED:
        if (row.arch, row.dataset, row.protocol) == (arch, dataset, protocol):
            return row
    return None
