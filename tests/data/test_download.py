"""Downloads from a server on this machine: whole and checked, or not there."""

import hashlib
import http.server
import threading

import pytest

from reslightning.data import CIFAR10
from reslightning.data.download import download
from reslightning.errors import UserError

CONTENT = b"a data set" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "file").write_bytes(CONTENT)
    (folder / CIFAR10.binary.archive).write_bytes(CONTENT)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}/", requests
        found.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server, tmp_path):
    url, requests = server
    for _ in range(2):
        download(url + "file", tmp_path / "new" / "file", f"md5:{MD5}")
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert requests == ["/file"]


def test_what_is_wrong_does_not_stay(server, tmp_path):
    url, _ = server
    with pytest.raises(UserError, match="not the expected file"):
        download(url + "file", tmp_path / "file", "md5:0123")
    with pytest.raises(UserError, match="File not found"):
        download(url + "missing", tmp_path / "file", f"md5:{MD5}")
    with pytest.raises(UserError, match="refused"):
        download("http://127.0.0.1:9/file", tmp_path / "file", f"md5:{MD5}")
    assert not list(tmp_path.iterdir())


def test_fetch(cli, server, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "site", server[0])
    monkeypatch.setattr(CIFAR10, "binary", CIFAR10.binary._replace(md5=MD5))
    result = cli("fetch cifar10 --to there")
    assert result.status == 0
    assert "--data CIFAR10 --data.root there" in result.out
    assert (tmp_path / "there" / CIFAR10.binary.archive).read_bytes() == CONTENT
    result = cli("fetch cifar10 cifra100 --to elsewhere")
    assert result.status == 2
    assert "did you mean 'cifar100'" in result.err
    assert not (tmp_path / "elsewhere").exists()


def test_download_only_where_asked(cli, server, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "site", server[0])
    result = cli("fit --data CIFAR10 --data.root here --run_dir run")
    assert result.status == 2
    assert "no CIFAR10 under" in result.err
    assert not server[1]
    result = cli("fit --data CIFAR10 --data.root here --data.download true --run_dir run")
    assert result.status == 2
    assert "not the expected file" in result.err
    assert server[1]
    assert not (tmp_path / "run").exists()


def test_fetch_torchvision_weights(cli, server, tmp_path, monkeypatch):
    from torchvision.models import ResNet18_Weights

    sha256 = hashlib.sha256(CONTENT).hexdigest()
    entry = ResNet18_Weights.IMAGENET1K_V1
    original = entry.value.url
    monkeypatch.setattr(type(entry), "url", f"{server[0]}resnet18-{sha256[:8]}.pth", raising=False)
    assert original.endswith(".pth")
    result = cli("fetch torchvision:resnet18 --to there")
    assert result.status == 2
    assert "File not found" in result.err
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(("name", "arch"), [("vgg19_bn.IMAGENET1K_V1", "vgg19_bn"), ("googlenet", "googlenet")])
def test_fetched_weights_come_with_their_network(cli, server, monkeypatch, name, arch):
    from torchvision.models import get_model_weights

    url = f"{server[0]}file?{arch}-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"  # a server looks at what is before ?
    monkeypatch.setattr(get_model_weights(arch), "url", url, raising=False)
    result = cli(f"fetch torchvision:{name} --to there")
    assert result.status == 0, result.err
    assert f"use it with --model.arch {arch} --model.weights there/file?{arch}-" in result.out
