"""Published results: value, protocol and source; without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reslightning.errors import UserError
from reslightning.models.architectures import canonical

PAPER = "arXiv:1512.03385"
PRE_ACTIVATION = "arXiv:1603.05027"


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        arch: the network's name in the table of architectures; "ensemble" for the paper's own; a name that is not
            in the table for what others published, and cannot be built here.
        dataset: the data set's class name.
        top1: top-1 error in percent; None where not published.
        top5: top-5 error in percent; None where not published.
        protocol: how it was evaluated, named as an evaluation here is: center (one crop of 224 from 256 pixels, on
            CIFAR the whole image), center-232-224, center-235-224-bicubic, ten-crop, multi-scale (fully
            convolutional, five sizes). No evaluation here is ensemble or single-model, which is one network
            evaluated as its authors did.
        source: where it stands.
        shortcut: the shortcut option; None for the network's own.
        version: order and stride placement; None for the network's own.
    """

    arch: str
    dataset: str
    top1: float | None
    top5: float | None
    protocol: str
    source: str
    shortcut: str | None = None
    version: str | None = None


def _cifar10(arch: str, top1: float, source: str = f"{PAPER}, Table 6") -> Published:
    return Published(arch, "CIFAR10", top1, None, "center", source)


def _paper(
    arch: str, table: int, top1: float, top5: float | None, shortcut: str | None = None, protocol: str = "ten-crop"
) -> Published:
    return Published(arch, "ImageNet", top1, top5, protocol, f"{PAPER}, Table {table}", shortcut, "v1")


def _others(arch: str, table: int, top1: float | None, top5: float, protocol: str, remark: str = "") -> Published:
    return Published(arch, "ImageNet", top1, top5, protocol, f"{PAPER}, Table {table}{remark}")


def _torchvision(arch: str, weights: str, protocol: str, accuracy1: float, accuracy5: float) -> Published:
    top1, top5 = round(100 - accuracy1, 3), round(100 - accuracy5, 3)
    return Published(arch, "ImageNet", top1, top5, protocol, f"torchvision {weights}")


def _timm(recipe: str, accuracy1: float) -> Published:
    source = f"timm {recipe}, arXiv:2110.00476"
    return Published("resnet50", "ImageNet", round(100 - accuracy1, 2), None, "center-235-224-bicubic", source)


PUBLISHED: tuple[Published, ...] = (
    _cifar10("resnet20", 8.75),
    _cifar10("resnet32", 7.51),
    _cifar10("resnet44", 7.17),
    _cifar10("resnet56", 6.97),
    _cifar10("resnet110", 6.43, f"{PAPER}, Table 6, best of 5: 6.61 ± 0.16"),
    _cifar10("resnet1202", 7.93),
    _cifar10("resnet164", 5.46, f"{PRE_ACTIVATION}, Table 4"),
    _cifar10("resnet1001", 4.92, f"{PRE_ACTIVATION}, Table 4"),
    Published("resnet164", "CIFAR100", 24.33, None, "center", f"{PRE_ACTIVATION}, Table 4"),
    Published("resnet1001", "CIFAR100", 22.71, None, "center", f"{PRE_ACTIVATION}, Table 4"),
    _paper("plain18", 2, 27.94, None),
    _paper("resnet18", 2, 27.88, None, "A"),
    _paper("plain34", 3, 28.54, 10.02),
    _paper("resnet34", 3, 25.03, 7.76, "A"),
    _paper("resnet34", 3, 24.52, 7.46, "B"),
    _paper("resnet34", 3, 24.19, 7.40, "C"),
    _paper("resnet50", 3, 22.85, 6.71),
    _paper("resnet101", 3, 21.75, 6.05),
    _paper("resnet152", 3, 21.43, 5.71),
    _others("vgg16", 3, 28.07, 9.33, "ten-crop"),
    _others("GoogLeNet", 3, None, 9.15, "ten-crop"),  # torchvision's has batch normalisation, and is another network
    _others("PReLU-net", 3, 24.27, 7.38, "ten-crop"),
    _others("VGG-ILSVRC14", 4, None, 8.43, "single-model", ", test server"),
    _others("GoogLeNet", 4, None, 7.89, "single-model", ", ILSVRC'14"),
    _others("VGG-v5", 4, 24.4, 7.1, "single-model"),
    _others("PReLU-net", 4, 21.59, 5.71, "single-model"),
    _others("BN-inception", 4, 21.99, 5.81, "single-model"),
    _paper("resnet34", 4, 21.84, 5.71, "B", "multi-scale"),
    _paper("resnet34", 4, 21.53, 5.60, "C", "multi-scale"),
    _paper("resnet50", 4, 20.74, 5.25, None, "multi-scale"),
    _paper("resnet101", 4, 19.87, 4.60, None, "multi-scale"),
    _paper("resnet152", 4, 19.38, 4.49, None, "multi-scale"),
    _others("VGG-ILSVRC14", 5, None, 7.32, "ensemble", ", test server"),
    _others("GoogLeNet", 5, None, 6.66, "ensemble", ", ILSVRC'14, test server"),
    _others("VGG-v5", 5, None, 6.8, "ensemble", ", test server"),
    _others("PReLU-net", 5, None, 4.94, "ensemble", ", test server"),
    _others("BN-inception", 5, None, 4.82, "ensemble", ", test server"),
    _others("ensemble", 5, None, 3.57, "ensemble", ", six residual networks, test server"),
    _torchvision("resnet18", "IMAGENET1K_V1", "center", 69.758, 89.078),
    _torchvision("resnet34", "IMAGENET1K_V1", "center", 73.314, 91.420),
    _torchvision("resnet50", "IMAGENET1K_V1", "center", 76.130, 92.862),
    _torchvision("resnet101", "IMAGENET1K_V1", "center", 77.374, 93.546),
    _torchvision("resnet152", "IMAGENET1K_V1", "center", 78.312, 94.046),
    _torchvision("vgg16", "IMAGENET1K_V1", "center", 71.592, 90.382),
    _torchvision("vgg19", "IMAGENET1K_V1", "center", 72.376, 90.876),
    _torchvision("vgg16_bn", "IMAGENET1K_V1", "center", 73.360, 91.516),
    _torchvision("vgg19_bn", "IMAGENET1K_V1", "center", 74.218, 91.842),
    _torchvision("googlenet", "IMAGENET1K_V1", "center", 69.778, 89.530),
    _torchvision("resnet50", "IMAGENET1K_V2", "center-232-224", 80.858, 95.434),
    _torchvision("resnet101", "IMAGENET1K_V2", "center-232-224", 81.886, 95.780),
    _torchvision("resnet152", "IMAGENET1K_V2", "center-232-224", 82.284, 96.002),
    _timm("A1", 80.4),
    _timm("A2", 79.8),
    _timm("A3", 78.1),
)
TEST_IMAGES = {"CIFAR10": 10_000, "CIFAR100": 10_000, "ImageNet": 50_000}


def published(
    arch: str,
    dataset: str,
    protocol: str,
    shortcut: str | None = None,
    version: str | None = None,
    norm: str | None = None,
    *,
    images: int | None = None,
) -> Published | None:
    """Return the published result of just this network on a data set by a protocol; None where there is none.

    Args:
        arch: the network's name.
        dataset: the data set's class name.
        protocol: how an image is evaluated.
        shortcut: None for the network's own.
        version: None for the network's own.
        norm: None for batch normalisation.
        images: of the test set that was used; a part of one has no published result. None is all of it.

    Raises:
        UserError: there is no such network, or it has no such options.
    """
    if images is not None and images != TEST_IMAGES.get(dataset, images):
        return None
    network = canonical(arch, shortcut, version, norm)
    rows = [row for row in PUBLISHED if (row.arch, row.dataset, row.protocol) == (arch, dataset, protocol)]
    return next((row for row in rows if canonical(arch, row.shortcut, row.version) == network), None)


def beside(summary: Mapping[str, Any], images: float | None = None) -> Published | None:
    """Return the published result that may stand beside a run, from its summary; None where there is none.

    None too for a run validated on held-out images: others are not measured on those.

    Args:
        summary: the run's summary.
        images: how many it was validated on; None is what the summary says.
    """
    if summary.get("val_source") != "test":
        return None
    counts = (summary.get("metrics") or {}).get("val/n_samples"), (summary.get("n_samples") or {}).get("test")
    counted = images or next((count for count in counts if count), None)
    try:
        return published(
            str(summary["arch"]),
            summary["dataset"],
            summary["protocol"],
            summary.get("shortcut"),
            summary.get("version"),
            summary.get("norm"),
            images=None if counted is None else int(counted),
        )
    except (KeyError, TypeError, ValueError, OverflowError, UserError):
        return None
