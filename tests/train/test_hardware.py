"""What a machine lacks is said before time is spent: a compiler, arithmetic of low precision, values to normalise."""

import functools
import sysconfig

import pytest
import torch
from torch import nn

from reslightning.train import hardware
from tests import images
from tests.conftest import SMALL

COMPILED = f"fit {SMALL} --model.compile true --trainer.accelerator cpu --trainer.max_epochs 1"


@pytest.fixture
def no_compiler(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("trial", ["", "--trainer.fast_dev_run 1"])
def test_compiling_without_a_compiler_is_refused_before_anything_is_made(cli, tmp_path, no_compiler, trial):
    result = cli(f"{COMPILED} {trial}")
    assert result.status == 2
    assert "model.compile needs a C++ compiler, and there is no g++ on the PATH" in result.err
    assert "of Debian the package g++" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
    assert "warn  compiler" in cli("doctor").out


def test_which_compiler_is_looked_for(tmp_path, no_compiler, monkeypatch):
    assert "no gcc or clang on the PATH" in hardware.missing_compiler("cuda")
    monkeypatch.setenv("CXX", "ccache mine")
    assert "no ccache, which CXX names, on the PATH" in hardware.missing_compiler("cpu")
    for name in ("ccache", "clang"):
        (tmp_path / "bin" / name).write_text("")
        (tmp_path / "bin" / name).chmod(0o755)
    assert [hardware.missing_compiler(device) for device in ("cpu", "cuda")] == [None, None]
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "python3-dev" in hardware.missing_compiler("cpu")


def test_an_evaluation_that_compiles_says_so_too(cli, tmp_path, no_compiler):
    assert cli(f"fit {SMALL} --trainer.max_epochs 1 --run_dir run").status == 0
    result = cli("validate --run_dir run --model.compile true --trainer.accelerator cpu")
    assert result.status == 2
    assert "leave model.compile out" in result.err


def test_images_that_grow_are_compiled_size_by_size(cli, monkeypatch):
    """By a backend that compiles nothing; with a limit that torch would otherwise have passed without a word."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    result = cli(
        f"{COMPILED.replace('tests.small.Thumbnails', 'Digits')} --data.first_size 8 --data.grow_epochs '[0,3]' "
        "--trainer.max_epochs 4 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1"
    )
    assert result.status == 0, result.err
    assert "compiled for each of 4 sizes" in result.out
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4 + 1  # the validation's
    assert "recompile_limit" not in result.err


FLAGS = {"flags : fpu avx512f avx512_bf16": (True, False), "Features : fp asimdhp": (False, True), "": (None, None)}


@pytest.mark.parametrize("text", FLAGS)
def test_what_cpus_have(tmp_path, monkeypatch, text):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{text}\n")
    monkeypatch.setattr(hardware, "CPUS", tmp_path / "cpuinfo")
    assert (hardware.has(hardware.BFLOAT16), hardware.has(hardware.FLOAT16)) == FLAGS[text]
    monkeypatch.setattr(hardware, "CPUS", tmp_path / "none")
    assert hardware.has(hardware.BFLOAT16) is None


def test_a_precision_that_is_emulated_is_said(cli, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 avx512f\n")
    monkeypatch.setattr(hardware, "CPUS", tmp_path / "cpuinfo")
    line = f"fit {SMALL} --trainer.accelerator cpu --trainer.max_epochs 1 --trainer.limit_train_batches 1"
    for precision, said in (("16-true", "fifteen times"), ("32-true", None), ("bf16-mixed", "half as long again")):
        out = cli(f"{line} --trainer.precision {precision} --run_dir {precision}").out
        assert (f"warning: precision {precision}: these CPUs have no" in out) == bool(said)
        assert said is None or said in out
    assert "warn  bfloat16" in cli("doctor").out
    evaluated = cli("test --run_dir bf16-mixed")  # in its training's precision
    assert evaluated.err.startswith("warning: precision bf16-mixed: these CPUs have no"), evaluated.err
    (tmp_path / "cpuinfo").write_text("flags : fpu amx_bf16\n")
    assert "ok    bfloat16" in cli("doctor").out
    assert not cli("test --run_dir bf16-mixed").err


@pytest.mark.parametrize(
    ("flags", "said"),
    [("flags : avx2 avx512f", "half as long"), ("flags : avx2", "ten times"), ("Features : fp", "takes longer than")],
)
def test_what_emulation_costs_is_of_these_cpus(tmp_path, monkeypatch, flags, said):
    (tmp_path / "cpuinfo").write_text(f"{flags}\n")
    monkeypatch.setattr(hardware, "CPUS", tmp_path / "cpuinfo")
    assert said in hardware.emulated("bf16-mixed", "cpu")


def test_a_gpu_that_emulates(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert hardware.emulated("bf16-mixed", "cuda").startswith("Tesla T4 has no bfloat16 arithmetic")
    assert hardware.emulated("16-mixed", "cuda") is None


@pytest.mark.parametrize("sizes", ["--data.train_size 4", "--data.train_size 16 --data.first_size 4"])
def test_a_single_value_is_not_normalised(cli, tmp_path, sizes):
    images.tree(tmp_path / "t", train=2)
    grows = "--data.grow_epochs '[0,1]'" if "first" in sizes else ""
    line = (
        f"fit --data ImageFolder --data.root t --data.num_workers 0 --data.batch_size 1 {sizes} {grows} "
        "--data.eval_resize 8 --data.eval_size 8 --model.arch resnet8 --wandb.mode disabled --trainer.max_epochs 1 "
        "--run_dir run"
    )
    result = cli(line)
    assert result.status == 2
    assert "sees 1 image at a time, of 4 pixels, and the last map of resnet8 has a place for every 4" in result.err
    assert not (tmp_path / "run").exists()
    assert cli(f"{line} --model.norm none").status == 0
