"""bench evaluate: what test costs by a protocol, beside a loop by hand over the same centres, measured in turn."""

from __future__ import annotations

import time
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from torch import nn

from reslightning.cli.quiet import quiet
from reslightning.commands.bench_data import in_turn, print_rates, ratio
from reslightning.data.folder import ImageFolder
from reslightning.data.registry import load
from reslightning.data.sampler import EvalSampler
from reslightning.errors import UserError
from reslightning.evaluation.protocols import PROTOCOLS
from reslightning.train.classifier import ImageClassifier

VIEWS = 10  # of ten-crop


def bench_evaluate(args: Namespace) -> None:
    """Measure the evaluation of a data set's validation images that ``bench``'s options name."""
    kind: Any = load(args.data)
    if not kind.reads_files:
        raise UserError("bench evaluate measures pictures of any size: give --data ImageFolder --root DIR")
    sizes = {"eval_size": args.size, "eval_resize": 8 * args.size // 7}
    data = kind(root=args.root, batch_size=args.batch_size, num_workers=0, **sizes)
    model = ImageClassifier(args.arch, num_classes=data.num_classes).eval()
    images, threads = data.n_samples("val"), torch.get_num_threads()
    print(f"{args.arch}, {images:,} images of {data.root}, {threads} threads, {args.rounds} rounds in turn")
    with quiet():
        loop, center, ten = in_turn(
            args.rounds,
            lambda: _loop_rate(data, model.model),
            lambda: _protocol_rate(data, model, "center"),
            lambda: _protocol_rate(data, model, "ten-crop"),
        )
    print_rates({"loop by hand, center": loop, "reslightning test, center": center, "the same, ten-crop": ten})
    print(f"center is {ratio(center, loop):.2f} times as fast as the loop by hand")
    print(f"ten-crop takes {ratio(loop, [VIEWS * rate for rate in ten]):.2f} times as long as ten passes of that loop")


def _protocol_rate(data: ImageFolder, model: ImageClassifier, name: str) -> float:
    PROTOCOLS[name]().begin(model, data)
    trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    start = time.perf_counter()
    trainer.validate(model, datamodule=data, verbose=False)
    return data.n_samples("val") / (time.perf_counter() - start)


@torch.inference_mode()
def _loop_rate(data: ImageFolder, network: nn.Module) -> float:
    """Return images per second of the network alone, from files to the number of hits."""
    data.views, data.crops, device = None, 1, next(network.parameters()).device
    images, hits = data.n_samples("val"), torch.zeros((), device=device)
    start = time.perf_counter()
    sampler = EvalSampler(images, rank=0, world_size=1)
    for content in data.loader("val", sampler, data.evaluation_batch_size(1, 1)):
        data.indices(content)  # or the message about a corrupt image
        views, labels = data.evaluation_batch([part.to(device) for part in content[:3]], "val")
        hits += (network(views).argmax(1) == labels).sum()
    hits.item()
    return images / (time.perf_counter() - start)
