"""bench: the loader and training, each against the plain way, measured in turn in one run."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from reslightning.cli.parser import CommandParser
from reslightning.cli.quiet import quiet
from reslightning.commands.bench_data import (
    Batches,
    batches,
    bench_data,
    forever,
    in_turn,
    plain_memory_loader,
    print_rates,
    ratio,
)
from reslightning.commands.bench_evaluate import bench_evaluate
from reslightning.data import CIFAR10
from reslightning.data.registry import DATA_SETS, load
from reslightning.errors import UserError
from reslightning.models.architectures import check_trainable
from reslightning.models.resnet import build_model
from reslightning.train.classifier import ImageClassifier
from reslightning.train.optim import Optim, make_optimizer
from reslightning.train.preemption import Preemption
from reslightning.train.throughput import WARM_UP, Throughput

# What is measured that looks at an option.
LOOKED_AT = {
    "batch_size": ("train", "data of images in memory", "evaluate"),
    "arch": ("train", "evaluate"),
    "size": ("data of image files", "evaluate"),
    **dict.fromkeys(("reference", "gpu_rate"), ("data of image files",)),
}


def main(argv: list[str]) -> int:
    """Measure what was asked for."""
    parser = CommandParser(
        prog="reslightning bench",
        description="Images per second beside the plain way, measured in turn in one run.",
    )
    parser.add_argument(
        "what",
        choices=["data", "train", "evaluate"],
        help="data: the loader on one core against torchvision's data set with PIL transforms; "
        "train: training on CIFAR-10 against a hand-written loop over that loader; "
        "evaluate: test by center and ten-crop against a hand-written loop",
    )
    parser.add_argument("--data", choices=[*DATA_SETS], default="CIFAR10", help="data, evaluate: of which")
    parser.add_argument("--root", help="where the data is (default: $RESLIGHTNING_DATA, else ./data)")
    parser.add_argument("--reference", help="data: what torchvision reads, the original files of a packed source")
    parser.add_argument("--size", type=int, default=224, help="data, evaluate: crops of files, in pixels")
    parser.add_argument(
        "--gpu_rate", type=float, default=2500, help="data: images/s that a GPU takes (ResNet-50, A100)"
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images a step")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured, in turn")
    parser.add_argument("--seconds", type=float, default=4.0, help="data: length of one measurement")
    parser.add_argument("--steps", type=int, default=50, help="train: measured steps of one measurement")
    parser.add_argument("--arch", default="resnet20", help="train, evaluate: the network")
    args = parser.parse_args(argv[1:])
    for name in ("rounds", "steps", "batch_size", "seconds", "size", "gpu_rate"):
        if not args[name] > 0:
            parser.error(f"--{name}={args[name]} is not allowed; it must be above zero")
    _refuse_idle(args, parser.get_defaults())
    if args.what == "data":
        bench_data(args)
    elif args.what == "evaluate":
        bench_evaluate(args)
    elif args.data != "CIFAR10":
        parser.error("bench train measures CIFAR-10")
    else:
        check_trainable(args.arch)
        data = CIFAR10(root=args.root, batch_size=args.batch_size)
        data.setup()
        with quiet():
            _bench_train(data, args.arch, args.rounds, args.steps)
    return 0


def _refuse_idle(args: Namespace, defaults: Namespace) -> None:
    """Raise UserError for options that what is measured does not look at."""
    data = "data of image files" if load(args.data).reads_files else "data of images in memory"
    kind = data if args.what == "data" else args.what
    for name, having in LOOKED_AT.items():
        if kind not in having and args[name] != defaults[name]:
            where = " and ".join(f"bench {one}" for one in having)
            raise UserError(
                f"--{name}={args[name]} is nothing to bench {kind}; it is an option of {where}\nLeave it out."
            )


def _bench_train(data: CIFAR10, arch: str, rounds: int, steps: int) -> None:
    plain_loader = plain_memory_loader(data)
    threads = torch.get_num_threads()
    print(f"{arch}, batches of {data.batch_size}, {threads} threads, {rounds} rounds of {steps} steps in turn")
    trainer, loop, plain = in_turn(
        rounds,
        lambda: _trainer_rate(data, arch, steps),
        lambda: _loop_rate(arch, batches(data, data.batch_size), steps, fast=True),
        lambda: _loop_rate(arch, forever(plain_loader), steps, fast=False),
    )
    print_rates(
        {
            "reslightning fit: Trainer, bf16, channels last": trainer,
            "loop by hand, same data, bf16, channels last": loop,
            "hand-written loop, fp32, torchvision and PIL": plain,
        }
    )
    print(f"ratio to the plain loop {ratio(trainer, plain):.2f}")
    print(f"the Trainer costs {100 * (ratio(loop, trainer) - 1):.1f} % over the same loop by hand")


def _trainer_rate(data: CIFAR10, arch: str, steps: int) -> float:
    throughput = Throughput()
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=steps + WARM_UP,
        limit_val_batches=0,
        precision="bf16-mixed",
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[throughput, Preemption(lambda trainer: None, interval=float("inf"))],
    )
    trainer.fit(ImageClassifier(arch, channels_last=True), datamodule=data)
    rate = throughput.images_per_second
    assert rate is not None
    return rate


def _loop_rate(arch: str, source: Batches, steps: int, *, fast: bool) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory_format = torch.channels_last if fast else torch.contiguous_format
    model = build_model(arch).to(device).to(memory_format=memory_format)
    model.train()
    optimizer = make_optimizer(model, Optim())
    images_seen, start = 0, 0.0
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            _wait(device)
            images_seen, start = 0, time.perf_counter()
        images, labels = (part.to(device) for part in next(source))
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            loss = F.cross_entropy(model(images.contiguous(memory_format=memory_format)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        images_seen += len(labels)
    _wait(device)
    return images_seen / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
