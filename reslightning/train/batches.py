"""What a step takes of anybody's loader: (images, labels), with indices or without, or words on what came instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reslightning.data.views import Views
from reslightning.errors import UserError

WANTED = "(images, labels) or (images, labels, indices)"


def unpack(batch: Any, num_classes: int, *, mixed: bool = False) -> tuple[Any, Tensor, Tensor | None]:
    """Return images or views, labels [B], int64, and indices [B], or None where a batch has none.

    Args:
        batch: what a loader gave.
        num_classes: how many targets an image has, where it has a target for each class.
        mixed: whether labels may be targets [B, num_classes], floats.

    Raises:
        UserError: the batch, or its labels, are something else.
    """
    if isinstance(batch, tuple) and batch and isinstance(batch[0], Views):  # which reslightning.data alone gives
        return batch[0], batch[1], batch[2]
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3) or not all(map(torch.is_tensor, batch)):
        raise UserError(f"ImageClassifier takes batches of {WANTED}, all tensors; got {_words(batch)}")
    images, labels, *indices = batch
    if mixed and labels.shape == (len(images), num_classes) and labels.is_floating_point():
        return images, labels, next(iter(indices), None)
    if labels.shape != (len(images),) or labels.is_floating_point():
        raise UserError(
            f"labels are {_words(labels)}; allowed: one whole number for each of {len(images)} images, the number of "
            f"its class from 0 to {num_classes - 1}" + (f", or its targets [B, {num_classes}], floats" if mixed else "")
        )
    return images, labels.long(), next(iter(indices), None)


def check_images(images: Tensor) -> None:
    """Raise UserError for what are no images [B, 3, H, W], uint8 or floats."""
    if images.ndim != 4 or images.shape[1] != 3:
        remedy = ""
        if images.ndim == 4 and images.shape[1] == 1:
            remedy = "\nOf one channel make three: images.expand(-1, 3, -1, -1)."
        elif images.ndim == 4 and images.shape[3] == 3:
            remedy = "\nPut the channels first: images.permute(0, 3, 1, 2)."
        raise UserError(f"images are {_words(images)}; allowed: [B, 3, H, W]{remedy}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"images are {_words(images)}; allowed: uint8, from 0 to 255, or normalised floats")


def _words(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {list(batch.shape)}"
    if isinstance(batch, dict):
        return f"a dict with {', '.join(map(str, batch))}\nGive the loader a collate_fn, or the data set tuples."
    if isinstance(batch, tuple | list):
        return f"{type(batch).__name__} of {', '.join(map(_words, batch)) or 'nothing'}"
    return f"a {type(batch).__name__}"
