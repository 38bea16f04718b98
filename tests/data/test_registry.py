"""A row of the registry is all that the package needs to know of a data set."""

import subprocess
import sys
from pathlib import Path

import pytest

import reslightning.data
from reslightning.cli.configs import available_configs
from reslightning.data import DataModule, registry
from reslightning.errors import UserError
from tests.small import Thumbnails


@pytest.mark.parametrize("name", registry.DATA_SETS)
def test_a_row_names_a_data_set(name):
    cls = registry.load(name)
    assert issubclass(cls, DataModule)
    assert cls is getattr(reslightning.data, name) is registry.load(f"reslightning.data.{name}")
    assert name in reslightning.data.__all__


def test_what_can_be_fetched_can_fetch():
    assert registry.fetchable() == {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
    assert all(callable(registry.load(name).fetch) for name in registry.fetchable().values())


def test_the_config_a_data_set_starts_from(monkeypatch):
    assert registry.default_config("reslightning.data.CIFAR100") in available_configs()
    assert registry.default_config("mine.Count") == "count"
    monkeypatch.setitem(registry.DATA_SETS, "ImageFolder", registry.DataSet("imagenet", config="tiny"))
    assert registry.default_config("ImageFolder") == "tiny"


def test_there_is_no_other():
    with pytest.raises(UserError, match="unknown data set 'CIFAR01'; did you mean 'CIFAR10'"):
        registry.load("CIFAR01")
    with pytest.raises(AttributeError, match="has no attribute 'CIFAR01'"):
        reslightning.data.CIFAR01  # noqa: B018


def test_a_file_may_name_what_is_of_the_package_or_imported_already():
    for name in ("CIFAR10", "reslightning.data.CIFAR10", "reslightning.data.cifar.CIFAR10"):
        assert registry.known(name) is registry.load("CIFAR10")
    assert registry.known("tests.small.Thumbnails") is Thumbnails
    for name in ("tests.small.Digits", "os.mkdir", "CIFAR01", "mine.CIFAR10", "reslightning.files.CIFAR10", None, [1]):
        with pytest.raises(UserError, match="is none of this package's, and its code is not imported"):
            registry.known(name)


def test_a_new_row_is_known_to_the_command_line(cli, monkeypatch):
    monkeypatch.setitem(registry.DATA_SETS, "Numbers", registry.DataSet("digits", fetch="numbers", config="digits"))
    assert "allowed: cifar10, cifar100, numbers, torchvision:" in cli("fetch nmbers --to x").err
    assert "numbers" in cli("fetch --help").out


def test_it_answers_without_torch():
    code = "import sys; from reslightning.data import registry; registry.fetchable(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
