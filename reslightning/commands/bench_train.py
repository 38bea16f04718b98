"""bench train: fit's own step beside loops by hand, measured in turn, where its time goes, and what could be had."""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jsonargparse import Namespace
from torch import Tensor

from reslightning.commands.bench import AGAINST, SYNTHETIC
from reslightning.commands.bench_data import Batches, batches, forever, in_turn, plain_file_loader, plain_memory_loader
from reslightning.commands.bench_fit import fit
from reslightning.commands.bench_synthetic import data_set
from reslightning.commands.bench_ways import PARTS, Found, Median, Turn, Turns, Way, times_as_fast
from reslightning.data.base import DataModule
from reslightning.errors import UserError
from reslightning.models.architectures import cost, get_architecture
from reslightning.models.resnet import build_model
from reslightning.train.hardware import emulated, missing_compiler, processor
from reslightning.train.memory import keep_freed_memory
from reslightning.train.optim import Optim, make_optimizer
from reslightning.train.throughput import WARM_UP, now

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PASSES = 3  # a training step's arithmetic, in forward passes: backward takes the gradients of inputs and of weights


@dataclass(frozen=True)
class Work:
    """What is trained: the command line's options.

    Attributes:
        arch: the network.
        data: a data set of the registry, or SYNTHETIC.
        root: where it is; None where $RESLIGHTNING_DATA says it.
        size: height and width of images in pixels; None where the data has one.
        batch_size: images a step.
        device: what trains.
    """

    arch: str
    data: str
    root: str | None
    size: int | None
    batch_size: int
    device: torch.device

    @property
    def _kind(self) -> type[DataModule]:
        return data_set(self.data)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"batch_size": self.batch_size}
        if self.data == SYNTHETIC:
            return options | {"size": self.size, "classes": get_architecture(self.arch).num_classes}
        if self._kind.reads_files:
            options |= {"train_size": self.size, "val_split": 1}  # so that no other part is needed
        return options | ({"root": self.root} if self.root else {})

    def module(self) -> DataModule:
        """Return the data, ready to be read."""
        module = self._kind(**self._options())
        module.setup()
        module.check_training()
        return module

    def words(self, devices: str, **options: object) -> list[str]:
        """Return what the command ``fit`` is given for it, as short trainings on CPUs and GPUs are run."""
        kind = self._kind
        data = {"data": f"{kind.__module__}.{kind.__qualname__}"}
        data |= {f"data.{name}": value for name, value in self._options().items()}
        trainer = {"accelerator": "gpu" if self.device.type == "cuda" else self.device.type, "devices": devices}
        trainer |= {"precision": {"bf16": "bf16-mixed", "fp32": "32-true"}[self.arithmetic]}
        given = data | {f"trainer.{name}": value for name, value in trainer.items()} | options
        given |= {"model.arch": self.arch, "model.channels_last": "true"}
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]

    @property
    def arithmetic(self) -> str:
        """Of ``fit``, and of the loops that do its work: bf16, or fp32 where that is emulated and slower."""
        return "fp32" if emulated("bf16-mixed", self.device.type) else "bf16"

    @property
    def one_device(self) -> str:
        """The device, as ``trainer.devices`` says it."""
        return f"[{self.device.index or 0}]" if self.device.type == "cuda" else "1"


def chosen(args: Namespace) -> Work:
    """Return what ``bench``'s options mean.

    Raises:
        UserError: there is no such network, device or data.
    """
    network = get_architecture(args.arch)
    sized = args.data == SYNTHETIC or data_set(args.data).reads_files
    size = (args.size or network.image_size) if sized else None
    return Work(args.arch, args.data, args.root, size, args.batch_size, device(args.device))


def device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the fastest.

    Raises:
        UserError: it is not there.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there = [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    if name == "auto" or (name == "cuda" and gpus):
        return torch.device(there[0])
    if name not in there:
        raise UserError(
            f"--device={name} is none that torch {torch.__version__} has here; allowed: auto, {', '.join(there)}"
        )
    return torch.device(name)


def hardware(device: torch.device) -> str:
    """Return what computes, and by which torch, in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{processor()}, {threads} thread{'s' * (threads > 1)}{', and its GPU' * (device.type == 'mps')}"
    return f"{name}; torch {torch.__version__}"


def say_arithmetic(work: Work) -> None:
    """Print in what ``fit`` computes, and why, where that is not the usual."""
    cost = emulated("bf16-mixed", work.device.type)
    print(f"  fit computes in {work.arithmetic}{f': {cost}' if cost else ''}", flush=True)


# -- the loops by hand -------------------------------------------------------------------------------


def by_hand(turns: Turns, work: Work, *, fast: bool, compiled: bool) -> None:
    """Train in a bare loop: as ``fit`` does, in all but the Trainer, or in fp32 over torchvision's own loader."""
    turns.device = work.device
    if fast and work.device.type == "cpu":
        keep_freed_memory()
    if work.device.type == "cuda":
        torch.cuda.set_device(work.device)
        torch.backends.cudnn.benchmark = fast
    data = work.module()
    memory_format = torch.channels_last if fast else torch.contiguous_format
    model = build_model(work.arch, num_classes=data.num_classes).to(work.device).to(memory_format=memory_format)
    model.train()
    if compiled:
        model.compile()
    optimizer = make_optimizer(model, Optim())
    low = fast and work.arithmetic == "bf16"  # once: it reads a file, which is no part of a step
    turns.wait()
    for images, labels in _source(work, data, fast=fast):
        with torch.autocast(work.device.type, torch.bfloat16, enabled=low):
            loss = F.cross_entropy(model(images.contiguous(memory_format=memory_format)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if turns.stepped():
            turns.tell({})
            turns.wait()


def _source(work: Work, data: Any, *, fast: bool) -> Batches:
    if fast or work.data == SYNTHETIC:
        return batches(data, work.batch_size, work.device)
    if data.reads_files:
        loader = plain_file_loader(data, data.train_size, work.batch_size, max(data.cpus() - 1, 0))
    else:
        loader = plain_memory_loader(data)
    return _moved(forever(loader), work.device)


def _moved(source: Batches, device: torch.device) -> Batches:
    for images, labels in source:
        yield images.to(device), labels.to(device)


# -- the measurement ---------------------------------------------------------------------------------


def bench_train(args: Namespace) -> None:
    """Measure the training that ``bench``'s options name."""
    work, against = chosen(args), args.against.split(",")
    if unknown := set(against) - set(AGAINST):
        raise UserError(f"--against={args.against} names {', '.join(unknown)}; allowed: {', '.join(AGAINST)}")
    images = f"images of {work.size} x {work.size}" if work.size else "images"
    print(f"{work.arch}, {work.data}, batches of {work.batch_size} {images}; {hardware(work.device)}", flush=True)
    say_arithmetic(work)
    if "compiled" in against and (missing := missing_compiler(work.device.type)):
        print(f"  not measured: torch.compile, which needs {missing}")
        against.remove("compiled")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ended:
        ways = {}
        for name, made in _ways(work, against, Path(folder)).items():
            way = ended.enter_context(Way(made))
            start = time.perf_counter()
            way.measure(Turn(WARM_UP))
            print(f"  {time.perf_counter() - start:5.1f} s to start, and {WARM_UP} steps: {name}", flush=True)
            ways[name] = way
        print(f"{args.rounds} rounds of {args.steps} steps in turn, each way in a process of its own", flush=True)
        turns = [functools.partial(way.measure, Turn(args.steps)) for way in ways.values()]
        found = dict(zip(ways, in_turn(args.rounds, *turns), strict=True))
        parts = ways[FIT].measure(Turn(max(args.steps, WARM_UP), PARTS))
    _print_rates(found, work.batch_size)
    _print_ratios(found)
    _print_parts(parts, work.device)
    _print_arithmetic(found, work)


FIT, LOOP, PLAIN = "fit: the Trainer, channels last", "bare loop, the same work", "hand-written loop, fp32"
COMPILED_FIT, COMPILED_LOOP = "fit --model.compile true", "bare loop, torch.compile"


def _ways(work: Work, against: Sequence[str], folder: Path) -> dict[str, Callable[[Turns], object]]:
    loop = functools.partial(by_hand, work=work)

    def as_fit(name: str, **options: object) -> Callable[[Turns], object]:
        return functools.partial(fit, words=work.words(work.one_device, run_dir=folder / name, **options))

    ways: dict[str, Callable[[Turns], object]] = {FIT: as_fit("fit")}
    if "loop" in against:
        ways[LOOP] = functools.partial(loop, fast=True, compiled=False)
    if "compiled" in against:
        ways[COMPILED_FIT] = as_fit("compiled", **{"model.compile": "true"})
        ways[COMPILED_LOOP] = functools.partial(loop, fast=True, compiled=True)
    if "plain" in against:
        ways[PLAIN] = functools.partial(loop, fast=False, compiled=False)
    return ways


def _print_rates(found: dict[str, list[Found]], batch_size: int) -> None:
    print("   images/s  lowest to highest   peak memory")
    for name, turns in found.items():
        rates = [batch_size / one.seconds for one in turns]
        spread = f"{min(rates):,.1f} to {max(rates):,.1f}"
        memory = max(one.memory for one in turns) / 1e9
        print(f"  {statistics.median(rates):>9,.1f}  {spread:>18}  {memory:>8.2f} GB   {name}")


def _print_ratios(found: dict[str, list[Found]]) -> None:
    def times(first: str, second: str) -> Median | None:
        return times_as_fast(found[first], found[second]) if {first, second} <= found.keys() else None

    def as_fast(ratio: Median, than: str = "") -> str:
        return f"{ratio.value:.2f} times as fast{than}{ratio.interval('{:.2f}'.format)}"

    for compiled, first, second in (("", FIT, LOOP), ("compiled, ", COMPILED_FIT, COMPILED_LOOP)):
        if ratio := times(first, PLAIN):
            print(f"{compiled}fit is {as_fast(ratio, ' as the hand-written fp32 loop')}")
        if ratio := times(second, first):
            cost = f"{_more(ratio.value)} over the bare loop{ratio.interval(_more)}"
            print(f"{compiled}the Trainer costs {cost}, and reaches {1 / ratio.value:.3f} of its rate")
    if ratio := times(COMPILED_FIT, FIT):
        print(f"torch.compile makes fit {as_fast(ratio)}")


def _more(ratio: float) -> str:
    return f"{100 * (ratio - 1):.1f} %"


def _print_parts(found: Found, device: torch.device) -> None:
    waits = "" if device.type == "cpu" else f", with a wait for the {device.type} device behind each part"
    total = sum(found.parts.values())
    print(f"where the time of fit's step goes{waits}")
    print("       ms      %")
    for name, spent in [*found.parts.items(), ("a step", total)]:
        print(f"  {1e3 * spent:7.2f} {100 * spent / total:6.1f}   {name}")


def _print_arithmetic(found: dict[str, list[Found]], work: Work) -> None:
    rates = {name: matrix_rate(work.device, KINDS[name]) for name in dict.fromkeys(["fp32", work.arithmetic])}
    said = " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates.items())
    print(f"products of large matrices reach {said}; of a step, {PASSES} forward passes' multiply-adds counted,")
    operations = 2 * PASSES * cost(work.arch, image_size=work.size).multiply_adds * work.batch_size
    for name, turns in found.items():
        kind = "fp32" if name == PLAIN else work.arithmetic
        reached = operations / statistics.median(one.seconds for one in turns)
        share = 100 * reached / rates[kind]
        print(f"  {reached / 1e9:>9,.0f} GFLOP/s  {share:3.0f} % of those in {kind}   {name}")


def matrix_rate(device: torch.device, kind: torch.dtype) -> float:
    """Return the operations a second of products of square matrices: the best of some, two for a multiply-add."""
    size = 2048 if device.type == "cpu" else 8192
    first, second = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    return max(2 * size**3 / _seconds(lambda: first @ second, device) for _ in range(3))


def _seconds(work: Callable[[], Tensor], device: torch.device, least: float = 0.3) -> float:
    """Return how long something takes: the mean over at least so many seconds, behind a first time."""
    work()
    count, start = 0, now(device)
    while (passed := now(device) - start) < least or not count:
        work()
        count += 1
    return passed / count
