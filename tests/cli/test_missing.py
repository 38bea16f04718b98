"""What of Lightning needs a package that is not installed says which, before anything is made."""

import importlib.util

import pytest

from tests.conftest import SMALL

CASES = [
    ("--trainer.logger TensorBoardLogger", "tensorboard"),
    ("--trainer.logger TensorBoardLogger --trainer.logger.save_dir x", "tensorboard"),
    ("--trainer.logger MLFlowLogger", "mlflow"),
    ("--trainer.logger CometLogger", "comet_ml"),
    ("--trainer.profiler xla", "torch_xla"),
    ("--trainer.strategy deepspeed", "deepspeed"),
    ("--trainer.accelerator tpu", "torch_xla"),
    ("--trainer.precision transformer-engine", "transformer_engine"),
    ("--trainer.plugins BitsandbytesPrecision", "bitsandbytes"),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Lightning's profiler, half made
@pytest.mark.parametrize(("options", "package"), CASES)
def test_a_missing_package_is_named(cli, tmp_path, options, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    result = cli(f"fit {SMALL} --trainer.max_epochs 1 {options}")
    assert result.status == 2, result.err
    assert package in result.err.replace("-", "_").lower()
    assert "install" in result.err.lower()
    assert not list(tmp_path.iterdir())
