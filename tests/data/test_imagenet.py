"""ImageNet's labels, whatever classes are there."""

from __future__ import annotations

from reslightning.data import ImageFolder, ImageNet
from reslightning.data.labels import imagenet_classes
from tests import images
from tests.data.test_folder import LINE, SIZES


def test_imagenet_s_labels_are_its_own(tmp_path):
    tree = images.tree(tmp_path, train=9)
    data = ImageNet(root=str(tree), **SIZES)
    assert (data.num_classes, data.val_source) == (1000, "test")
    numbers = [list(imagenet_classes()).index(wnid) for wnid in images.WNIDS]
    assert data.labels("train").tolist() == [number for number in numbers for _ in range(9)]
    folder = ImageFolder(root=str(tree), **SIZES)
    assert folder.num_classes == 4
    assert list(folder.class_names) == ["tench", "goldfish", "tabby", "golf ball"]
    assert folder.labels("train").tolist() == [label for label in range(4) for _ in range(9)]


def test_classes_that_are_not_imagenet_s(tmp_path, cli):
    images.tree(tmp_path / "t", classes=("cat", "dog"))
    result = cli(LINE.replace("ImageFolder", "ImageNet") + f"--data.root {tmp_path}/t --run_dir {tmp_path}/run")
    assert result.status == 2
    assert "classes that are not ImageNet's: cat, dog" in result.err
    assert "use --data ImageFolder" in result.err
    assert not (tmp_path / "run").exists()
