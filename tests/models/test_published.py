"""Published results stand beside the same network, data and protocol alone."""

import pytest
from torchvision.models import get_model_weights

from reslightning.errors import UserError
from reslightning.models.architectures import ARCHITECTURES
from reslightning.models.published import PUBLISHED, beside, published

OTHERS = {"ensemble", "GoogLeNet", "PReLU-net", "VGG-ILSVRC14", "VGG-v5", "BN-inception"}


@pytest.mark.parametrize(
    ("asked", "top1"),
    [
        (("resnet56", "CIFAR10", "center"), 6.97),
        (("resnet56", "CIFAR10", "center", "B"), None),
        (("resnet56", "CIFAR10", "center-flip"), None),
        (("resnet56", "CIFAR10", "center", "A", "v2"), None),
        (("resnet34", "ImageNet", "ten-crop", "A"), 25.03),
        (("resnet34", "ImageNet", "ten-crop"), 24.52),
        (("resnet34", "ImageNet", "ten-crop", "C", "v1.5"), 24.19),  # which only bottlenecks tell from v1
        (("resnet34", "ImageNet", "multi-scale", "C"), 21.53),
        (("resnet50", "ImageNet", "ten-crop", "B", "v1"), 22.85),
        (("resnet50", "ImageNet", "ten-crop"), None),  # the paper's is v1
        (("resnet50", "ImageNet", "center"), 23.87),
        (("resnet50", "ImageNet", "center", "B", "v1"), None),  # torchvision's is v1.5
        (("resnet50", "ImageNet", "center-232-224"), 19.142),
        (("resnet152", "ImageNet", "center-232-224"), 17.716),
        (("plain34", "ImageNet", "ten-crop"), 28.54),
        (("resnet1202", "CIFAR100", "center"), None),
        (("vgg16", "ImageNet", "ten-crop"), 28.07),
        (("vgg16", "ImageNet", "center"), 28.408),
        (("vgg16_bn", "ImageNet", "ten-crop"), None),  # the paper's has no batch normalisation
        (("googlenet", "ImageNet", "ten-crop"), None),  # the same
        (("googlenet", "ImageNet", "center"), 30.222),
    ],
)
def test_the_published_value(asked, top1):
    found = published(*asked)
    assert (found and found.top1) == top1


def test_a_part_of_a_test_set_and_held_out_images_have_none():
    facts = {"arch": "resnet20", "dataset": "CIFAR10", "protocol": "center", "val_source": "test"}
    row = beside(facts | {"n_samples": {"test": 10_000}})
    assert row is not None
    assert (row.top1, row.source) == (8.75, "arXiv:1512.03385, Table 6")
    assert beside(facts | {"n_samples": {"test": 9_999}}) is None
    assert beside(facts | {"val_source": "held-out"}) is None
    assert beside(facts | {"arch": "resnet21"}) is None
    assert beside({}) is None


def test_every_row_is_one_network_s_once():
    assert {row.arch for row in PUBLISHED} == OTHERS | {row.arch for row in PUBLISHED if row.arch in ARCHITECTURES}
    timm = {row for row in PUBLISHED if row.source.startswith("timm")}
    keys = [(row.arch, row.dataset, row.protocol, row.shortcut, row.version) for row in {*PUBLISHED} - timm]
    assert len(set(keys)) == len(keys)
    for table in range(2, 7):
        assert any(f"Table {table}" in row.source for row in PUBLISHED), table


def test_torchvision_s_rows_are_what_torchvision_says():
    rows = [row for row in PUBLISHED if row.source.startswith("torchvision")]
    assert len(rows) == 13
    for row in rows:
        found = get_model_weights(row.arch)[row.source.split()[1]]
        accuracies = found.meta["_metrics"]["ImageNet-1K"]
        assert (row.top1, row.top5) == tuple(round(100 - accuracies[f"acc@{k}"], 3) for k in (1, 5))
        sizes = found.transforms().resize_size[0], found.transforms().crop_size[0]
        assert row.protocol == ("center" if sizes == (256, 224) else "center-{}-{}".format(*sizes))


@pytest.mark.parametrize("protocol", ["ten-crop", "single-model", "ensemble"])
def test_what_others_did_stands_beside_no_run(protocol):
    for arch in OTHERS:
        with pytest.raises(UserError, match="unknown architecture"):
            published(arch, "ImageNet", protocol)
    names = {row.arch for row in PUBLISHED if row.protocol in ("single-model", "ensemble")}
    assert names <= OTHERS
