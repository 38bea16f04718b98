"""bench train and bench scale measure what they say, on a small scale, and name what they cannot measure."""

import itertools
import multiprocessing
import re
import shutil

import pytest
import torch

from reslightning.commands import bench_train
from reslightning.commands.bench_fit import Parts
from reslightning.commands.bench_ways import Found, Turn, Turns, Way, times_as_fast
from reslightning.errors import TrainingError, UserError
from reslightning.train import hardware
from tests.images import tree


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Take a rate of matrix products for granted, which takes seconds to measure."""
    monkeypatch.setattr(bench_train, "matrix_rate", lambda device, kind: 4e10)


def test_matrix_products_have_a_rate(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("reslightning.commands.bench_train.now", lambda device: next(clock))
    product = 2 * 2048**3  # of one, in a tick
    assert product / 3 < MATRIX_RATE(torch.device("cpu"), torch.float32) <= product


MATRIX_RATE = bench_train.matrix_rate
SMALL = "--arch resnet8 --batch_size 16 --size 8 --rounds 2 --steps 3"


def rows(text: str) -> dict[str, float]:
    """Return the numbers of the table of a step's parts, in ms, by their names."""
    return {name: float(ms) for ms, name in re.findall(r"^ +([\d.]+) +[\d.]+   (.+)$", text, re.M)}


def test_every_way_is_measured_and_the_parts_add_up(cli):
    result = cli(f"bench train --data synthetic {SMALL} --against loop,plain --device cpu")
    assert result.status == 0, result.err
    found = re.findall(r"^ +([\d,.]+) +([\d,.]+) to ([\d,.]+) +([\d.]+) GB   (.+)$", result.out, re.M)
    assert [way for *_, way in found] == [bench_train.FIT, bench_train.LOOP, bench_train.PLAIN]
    rates = {way: float(rate.replace(",", "")) for rate, *_, way in found}
    assert all(0.1 < float(memory) < 4 for *_, memory, _ in found)  # what Python with torch has, and no more
    times = float(re.search(r"fit is ([\d.]+) times", result.out)[1])
    assert times == pytest.approx(rates[bench_train.FIT] / rates[bench_train.PLAIN], rel=0.5)
    cost, share = map(
        float, re.search(r"^the Trainer costs (-?[\d.]+) % .* ([\d.]+) of its rate", result.out, re.M).groups()
    )
    assert 1 / share - 1 == pytest.approx(cost / 100, abs=0.002)
    parts = rows(result.out)
    assert list(parts) == [*Parts.ROWS, Parts.REST, "a step"]
    assert all(parts[name] > 0 for name in ("data", "forward", "backward", "optimizer", "loss and metrics"))
    assert sum(parts.values()) - parts["a step"] == pytest.approx(parts["a step"], abs=0.05)
    assert len(re.findall(r"GFLOP/s +\d+ % of those in (?:bf16|fp32)   ", result.out)) == 3


def test_images_in_memory_and_in_files(cli, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n")
    monkeypatch.setattr(hardware, "CPUS", tmp_path / "cpuinfo")
    result = cli(f"bench train --data Digits {SMALL.replace('--size 8 ', '')} --rounds 1 --against plain")
    assert result.status == 0, result.err
    assert "fit computes in fp32: these CPUs have no bfloat16 arithmetic" in result.out
    assert "% of those in fp32   fit" in result.out
    assert "bf16" not in result.out.partition("products of large matrices")[2]  # which would take minutes
    root = tree(tmp_path / "tree", train=20)
    result = cli(f"bench train --data ImageFolder --root {root} {SMALL} --rounds 1 --against loop,plain")
    assert result.status == 0, result.err
    assert "ImageFolder, batches of 16 images of 8 x 8" in result.out


def test_a_pause_is_no_part_of_a_turn(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("reslightning.commands.bench_ways.now", lambda device: next(clock))
    sent = []

    class Connection:
        recv = staticmethod(lambda: Turn(3))
        send = staticmethod(sent.append)

    turns = Turns(Connection())
    turns.wait()
    assert not turns.stepped()  # at 0: the first is not measured
    assert not turns.stepped()
    turns.pause()  # at 1
    assert not turns.stepped()  # at 2: the first behind a pause neither
    assert not turns.stepped()
    assert turns.stepped()  # at 3
    turns.tell({"forward": 6.0})
    assert sent[0].seconds == 2 / 3
    assert sent[0].parts == {"forward": 2.0}


def test_ratios_are_medians_of_rounds():
    first, second = ([Found(seconds, 0, {}) for seconds in times] for times in ((1, 2, 4), (2, 2, 12)))
    assert times_as_fast(first, second).value == 2


def test_medians_of_six_rounds_have_an_interval():
    def within(rounds: int) -> str:
        slower = [Found(1 + number / 10, 0, {}) for number in range(rounds)]
        return times_as_fast([Found(1, 0, {})] * rounds, slower).interval("{:.1f}".format)

    assert within(5) == ""
    assert within(6) == " (95 %: 1.0 to 1.5)"  # all: the median is outside in 2 of 2 ** 6 cases
    assert within(20) == " (95 %: 1.5 to 2.4)"  # the table's 6th and 15th of them


def fails(turns: Turns) -> None:
    turns.wait()
    raise UserError("there is no such way")


def leaves(turns: Turns) -> None:
    turns.wait()
    raise SystemExit(3)


def waits(turns: Turns) -> None:
    turns.wait()
    turns.tell({})
    turns.wait()


@pytest.mark.parametrize(("work", "kind", "said"), [(fails, UserError, "no such way"), (leaves, TrainingError, "gone")])
def test_what_ends_a_way_is_said(work, kind, said):
    with Way(work) as way, pytest.raises(kind, match=said):
        way.measure(Turn(1))


def test_no_process_stays():
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt), Way(waits) as way:
        interrupted(way)
    assert set(multiprocessing.active_children()) <= before


def interrupted(way: Way) -> None:
    way.measure(Turn(1))
    assert any(child.is_alive() for child in multiprocessing.active_children())
    raise KeyboardInterrupt


def test_several_processes(cli):
    result = cli(f"bench scale {SMALL} --processes 1 --device cpu")
    assert result.status == 0, result.err
    (line,) = re.findall(r"^ +1 +([\d.]+) +([\d,.]+) +100 % +(.*)$", result.out, re.M)
    steps, images = (float(number.replace(",", "")) for number in line[:2])
    assert images == pytest.approx(16 * steps, rel=0.01)
    assert len(re.findall(r"-?[\d.]+ ms -?[\d.]+ %", line[2])) == 2


@pytest.mark.slow
def test_two_processes_agree_and_count(cli):
    result = cli(f"bench scale {SMALL} --processes 1,2 --device cpu --rounds 5 --steps 20")
    assert result.status == 0, result.err
    assert re.search(r"^ +2 +[\d.]+ +[\d,.]+ +\d+ %", result.out, re.M)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --device tpu", "--device=tpu is none that torch"),
        ("train --device cuda:7", "--device=cuda:7 is none that torch"),
        ("scale --device mps", "allowed: auto, cpu"),
        ("train --arch vgg16", "vgg16 is torchvision's, and is not trained here"),
        ("train --arch resnet21", "no network has 21 layers"),
        ("train --against loop,sloth", "--against=loop,sloth names sloth; allowed: loop, compiled, plain"),
        ("train --size 64", "--size=64 is nothing to bench train of images in memory"),
        ("train --arch resnet18 --size 5000 --against loop", ": --size=5000 is out of range"),
        ("train --data Digits --batch_size 5000 --against loop", ": --batch_size=5000 exceeds the 1438"),
        ("train --data Digits --batch_size 1000 --against loop", "an epoch has one step"),
        ("train --data synthetic --root there", "--root=there is nothing to --data=synthetic"),
        ("train --processes 2", "--processes=2 is nothing to bench train"),
        ("train --root nowhere --against plain", "Give its place as --root, or fetch it"),
        ("scale --against loop", "--against=loop is nothing to bench scale of synthetic images; it is an option of"),
        ("scale --processes 0,1", "--processes=0,1 is not allowed; allowed: numbers from 1 to 99"),
        ("data --data synthetic", "--data=synthetic is nothing to bench data"),
        ("data --device cpu", "--device=cpu is nothing to bench data of images in memory"),
        ("evaluate --size 0", "--size=0 is not allowed"),
    ],
)
def test_what_cannot_be_measured_is_named(cli, line, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = cli(f"bench {line}")
    assert result.status == 2, result.out
    assert said in result.err


def test_torch_compile_needs_a_compiler(cli, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = cli(f"bench train --data synthetic {SMALL} --against compiled,loop --rounds 1")
    assert result.status == 0, result.err
    assert "not measured: torch.compile, which needs a C++ compiler" in result.out
    assert bench_train.COMPILED_LOOP not in result.out
