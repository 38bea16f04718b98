"""The benchmarks measure what they say, on a small scale."""

import re

import pytest

from reslightning.commands.bench_data import in_turn
from tests.images import tree


def test_no_way_is_always_the_last_one_measured():
    order = []
    found = in_turn(3, *(lambda name=name: order.append(name) or name for name in "abc"))
    assert "".join(order) == "abccbaabc"
    assert found == [["a"] * 3, ["b"] * 3, ["c"] * 3]


def test_bench_data(cli, cifar_root):
    result = cli(f"bench data --root {cifar_root} --rounds 1 --seconds 0.5")
    assert result.status == 0
    ours, plain = (float(n.replace(",", "")) for n in re.findall(r"([\d,]+) images/s", result.out))
    ratio = float(re.search(r"ratio ([\d.]+)", result.out)[1])
    assert abs(ratio - ours / plain) < 0.1 + ratio * 0.01


def test_bench_data_of_files(cli, tmp_path):
    root = tree(tmp_path / "tree", train=20)
    assert cli(f"pack {root} {tmp_path}/packed --max-side 40").status == 0
    line = f"bench data --data ImageFolder --root {tmp_path}/packed --reference {root} --size 32 --rounds 1"
    result = cli(f"{line} --seconds 0.3 --gpu_rate 1000")
    assert result.status == 0, result.err
    ours, plain, gpu = (float(n.replace(",", "")) for n in re.findall(r"([\d,]+) images/s", result.out) if n)
    ratio = float(re.search(r"ratio ([\d.]+)", result.out)[1])
    assert abs(ratio - ours / plain) < 0.02 + ratio * 0.01
    assert gpu == 1000
    assert float(re.search(r"needs ([\d.]+) such cores", result.out)[1]) == pytest.approx(1000 / ours, abs=0.1)
    spent = [float(ms) for ms in re.findall(r"^  (?:read|decode|crop|collate|transfer) +([\d.]+)", result.out, re.M)]
    assert len(spent) == 5
    assert sum(spent) == pytest.approx(1000 / ours, rel=0.7)


def test_bench_without_data(cli):
    result = cli("bench data --root nowhere")
    assert result.status == 2
    assert "no CIFAR10 under" in result.err


def test_bench_data_of_any_data_set_in_memory(cli):
    result = cli("bench data --data Digits --rounds 1 --seconds 0.1")
    assert result.status == 0, result.err
    assert "Digits to normalised float batches of 128" in result.out
    assert len(re.findall(r"[\d,]+ images/s", result.out)) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data --data Digits --batch_size 100000", "--batch_size=100000 is more than there are training images: 1,438"),
        ("data --data Digits --size 64", "--size=64 is nothing to bench data of images in memory"),
        ("data --data Digits --gpu_rate 100", "--gpu_rate=100.0 is nothing to bench data of images in memory"),
        ("data --data ImageFolder --batch_size 64", "--batch_size=64 is nothing to bench data of image files"),
        ("data --arch resnet56", "--arch=resnet56 is nothing to bench data of images in memory; it is"),
        ("train --reference there", "--reference=there is nothing to bench train"),
        ("data --data ImageFolder --size 0", "--size=0 is not allowed"),
        ("data --data ImageFolder --gpu_rate -1", "--gpu_rate=-1.0 is not allowed"),
    ],
)
def test_what_would_not_be_measured_is_refused(cli, line, said):
    result = cli(f"bench {line} --rounds 1 --seconds 0.1")
    assert result.status == 2
    assert said in result.err


def test_bench_evaluate(cli, tmp_path):
    root = tree(tmp_path / "tree", train=1)
    result = cli(f"bench evaluate --data ImageFolder --root {root} --arch resnet8 --size 16 --rounds 1")
    assert result.status == 0, result.err
    loop, center, ten = (float(n.replace(",", "")) for n in re.findall(r"([\d,]+) images/s", result.out))
    fast = float(re.search(r"center is ([\d.]+) times", result.out)[1])
    assert fast == pytest.approx(center / loop, rel=0.1, abs=0.05)
    assert float(re.search(r"ten-crop takes ([\d.]+) times", result.out)[1]) == pytest.approx(loop / ten / 10, rel=0.2)
    refused = cli("bench evaluate --data CIFAR10")
    assert refused.status == 2
    assert "bench evaluate measures pictures of any size" in refused.err
