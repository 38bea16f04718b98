"""Weights from the hub: a stand-in for its client, which need not be installed."""

import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from reslightning.errors import UserError
from reslightning.models.resnet import build_model


class EntryNotFoundError(Exception):
    pass


class LocalEntryNotFoundError(EntryNotFoundError):
    pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository whose files lie in ``there``, cached ones in ``cache``; it may be ``away``."""
    client, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    errors.EntryNotFoundError, errors.LocalEntryNotFoundError = EntryNotFoundError, LocalEntryNotFoundError
    client.there, client.cache, client.away, client.asked = tmp_path / "there", tmp_path / "cache", False, []

    def download(repository, file, *, local_files_only):
        if not local_files_only:
            client.asked.append(file)
        if repository != "someone/resnet20":
            raise OSError(f"404 Client Error: no repository {repository}")
        if (client.cache / file).is_file():
            return str(client.cache / file)
        if local_files_only or client.away:
            raise LocalEntryNotFoundError("Please check your connection")
        if not (client.there / file).is_file():
            raise EntryNotFoundError(f"404 Client Error: {file}")
        return str((client.there / file).rename(client.cache / file))

    client.hf_hub_download = download
    for folder in (client.there, client.cache):
        folder.mkdir()
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return client


def states(*seeds):
    for seed in seeds:
        torch.manual_seed(seed)
        yield build_model("resnet20").state_dict()


def bias(source):
    return build_model("resnet20", weights=source).fc.bias


def test_safetensors_are_preferred_and_kept(hub):
    one, other = states(1, 2)
    torch.save(other, hub.there / "pytorch_model.bin")
    assert torch.equal(bias("hf:someone/resnet20"), other["fc.bias"])
    assert hub.asked == ["model.safetensors", "pytorch_model.bin"]
    save_file(one, hub.cache / "model.safetensors")
    hub.away = True
    assert torch.equal(bias("hf:someone/resnet20"), one["fc.bias"])
    assert len(hub.asked) == 2


def test_a_file_and_a_key(hub):
    one, other = states(1, 2)
    torch.save({"model": one, "model_ema": other}, hub.there / "last.pth")
    assert torch.equal(bias("hf:someone/resnet20/last.pth"), one["fc.bias"])
    assert torch.equal(bias("hf:someone/resnet20/last.pth#model_ema"), other["fc.bias"])
    with pytest.raises(UserError, match=r"no model.safetensors and no pytorch_model.bin\nName the file: hf:someone/"):
        bias("hf:someone/resnet20")
    with pytest.raises(UserError, match=r"someone/resnet20 has no other.pth"):
        bias("hf:someone/resnet20/other.pth")


def test_no_network(hub, cli):
    hub.away = True
    done = cli("test --data tests.small.Thumbnails --model.arch resnet20 --model.weights hf:someone/resnet20")
    assert done.status == 2
    assert "cannot download hf:someone/resnet20: Please check your connection" in done.err
    assert "`hf download someone/resnet20 model.safetensors`" in done.err
    assert hub.asked == ["model.safetensors"]


def test_what_cannot_be(hub, monkeypatch):
    with pytest.raises(UserError, match="cannot download hf:someone/else: 404 Client Error"):
        bias("hf:someone/else")
    with pytest.raises(UserError, match="allowed: hf:USER/NAME, hf:USER/NAME/FILE"):
        bias("hf:resnet20")
    (hub.there / "model.safetensors").write_bytes(b"\x80\x02cos\nmkdir\n(S'executed'\ntR.")
    with pytest.raises(UserError, match="is truncated or is no checkpoint"):
        bias("hf:someone/resnet20")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'reslightning\[hub\]'"):
        bias("hf:someone/resnet20")
