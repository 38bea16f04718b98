"""bench scale: how much faster several processes train together, and what it costs them that they agree and count."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import statistics
import tempfile
from pathlib import Path

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from reslightning.commands.bench_data import in_turn
from reslightning.commands.bench_fit import fit
from reslightning.commands.bench_train import Work, chosen, hardware, say_arithmetic
from reslightning.commands.bench_ways import WHOLE, WITHOUT, Found, Turn, Way, times_as_fast
from reslightning.errors import UserError
from reslightning.train.throughput import WARM_UP


def bench_scale(args: Namespace) -> None:
    """Measure trainings of the numbers of processes that ``bench``'s options name."""
    work, numbers = chosen(args), _numbers(args.processes)
    places, threads = _places(work.device, max(numbers))
    print(f"{work.arch}, {work.data}, {work.batch_size} images a step for each process; {hardware(work.device)}")
    say_arithmetic(work)
    if work.device.type == "cpu":
        print(f"  {threads} thread{'s' * (threads > 1)} each")
    if max(numbers) > places:
        print(f"  only {places} have cores of their own: by that number efficiency goes where there are more")
    print(f"{args.rounds} rounds of {args.steps} steps in turn, as they are and without what stands at the right;")
    print("efficiency is images/s for each process, beside the first line's", flush=True)
    print("  processes   steps/s    images/s   efficiency   " + "   ".join(f"{name:>15}" for name in WITHOUT))
    first: float | None = None
    for number in numbers:
        found = _measured(work, number, threads, args.rounds, args.steps)
        seconds = statistics.median(one.seconds for one in found[WHOLE])
        rate = number * work.batch_size / seconds
        first = first or rate / min(number, places)
        costs = "   ".join(f"{_cost(found[WHOLE], found[name]):>15}" for name in WITHOUT)
        efficiency = 100 * rate / first / min(number, places)
        print(f"  {number:9} {1 / seconds:9.2f} {rate:11,.1f} {efficiency:10.0f} %   {costs}", flush=True)


def _cost(whole: list[Found], without: list[Found]) -> str:
    """Return in ms and percent what a step takes longer with what is left out of the second."""
    spent = statistics.median(a.seconds - b.seconds for a, b in zip(whole, without, strict=True))
    return f"{1e3 * spent:.2f} ms {100 * (times_as_fast(without, whole).value - 1):.1f} %"


def _numbers(given: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d?(,[1-9]\d?)*", given):
        raise UserError(f"--processes={given} is not allowed; allowed: numbers from 1 to 99, with commas, like 1,2,4")
    return [int(number) for number in given.split(",")]


def _places(device: torch.device, most: int) -> tuple[int, int]:
    """Return how many processes have a device, or cores, of their own, and the threads of each.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if device.type != "cpu":
        there = torch.cuda.device_count() if device.type == "cuda" else 1
        if most > there:
            raise UserError(f"--processes has {most}, one a GPU, and here are {there}; give fewer, or --device cpu")
        return there, torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    threads = min(max(cores // most, 1), torch.get_num_threads())  # which $OMP_NUM_THREADS limits
    return cores // threads, threads


def _measured(work: Work, processes: int, threads: int, rounds: int, steps: int) -> dict[str, list[Found]]:
    with tempfile.TemporaryDirectory() as folder:
        together = dataclasses.replace(work, batch_size=work.batch_size * processes)
        words = together.words(str(processes), run_dir=Path(folder) / "run")
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "NODE_RANK": "0"}
        environments = [meeting | {"LOCAL_RANK": str(rank)} for rank in range(processes)] if processes > 1 else [{}]
        with Way(functools.partial(fit, words=words), environments, threads) as way:
            way.measure(Turn(WARM_UP))
            turns = {what: functools.partial(way.measure, Turn(steps, what)) for what in (WHOLE, *WITHOUT)}
            return dict(zip(turns, in_turn(rounds, *turns.values()), strict=True))
