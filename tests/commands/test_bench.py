"""The benchmarks measure what they say, on a small scale."""

import re


def test_bench_data(cli, cifar_root):
    result = cli(f"bench data --root {cifar_root} --rounds 1 --seconds 0.5")
    assert result.status == 0
    ours, plain = (float(n.replace(",", "")) for n in re.findall(r"([\d,]+) images/s", result.out))
    ratio = float(re.search(r"ratio ([\d.]+)", result.out)[1])
    assert abs(ratio - ours / plain) < 0.1 + ratio * 0.01


def test_bench_train(cli, cifar_root):
    result = cli(f"bench train --root {cifar_root} --arch resnet8 --batch_size 16 --rounds 1 --steps 3")
    assert result.status == 0
    assert len(re.findall(r"[\d,]+ images/s", result.out)) == 3
    assert "the Trainer costs" in result.out


def test_bench_without_data(cli):
    result = cli("bench data --root nowhere")
    assert result.status == 2
    assert "no CIFAR10 under" in result.err
