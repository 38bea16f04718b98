"""What the LightningModule adds to a network: mirrored evaluation, mixed targets, frozen stages."""

import inspect
from dataclasses import asdict

import pytest
import torch

from reslightning import ImageClassifier
from reslightning.data import CIFAR10, ImageNet
from reslightning.errors import UserError
from reslightning.train.optim import Optim, Schedule
from tests.conftest import SMALL, assert_same_result, rows
from tests.train.test_callbacks import assert_goes_on
from tests.train.test_preemption import STRIKE


def test_an_evaluation_may_average_an_image_and_its_mirror_image():
    torch.manual_seed(0)
    plain, flipped = ImageClassifier("resnet8"), ImageClassifier("resnet8", test_flip=True)
    flipped.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 32)
    plain.eval(), flipped.eval()
    with torch.no_grad():
        expected = (plain(images) + plain(images.flip(-1))) / 2
        assert torch.equal(flipped.evaluated(images), expected)
        assert torch.equal(plain.evaluated(images), plain(images))
        assert not torch.allclose(expected, plain(images))
    assert (plain.protocol(CIFAR10()), flipped.protocol(CIFAR10())) == ("center", "center-flip")
    assert flipped.protocol(ImageNet(eval_size=256, eval_resize=293)) == "center-293-256-flip"
    assert plain.protocol(ImageNet(eval_resize=232)) == "center-232-224"


def test_a_checkpoint_is_rebuilt_from_its_plain_arguments_without_the_first_weights():
    model = ImageClassifier("resnet8", optim={"lr": 0.3}, schedule=Schedule(warmup=1), ema_decay=0.9)
    arguments = set(inspect.signature(ImageClassifier).parameters) - {"weights", "new_head"}
    assert set(model.hparams) == arguments
    assert model.hparams["optim"] == asdict(Optim(lr=0.3))
    assert model.hparams["schedule"] == asdict(Schedule(warmup=1))
    assert dict(ImageClassifier(**model.hparams).hparams) == dict(model.hparams)


def test_frozen_stages():
    model = ImageClassifier("resnet8", frozen_stages=1)
    model.train()
    assert not model.model.layer1.training
    assert not model.model.bn1.training
    assert model.model.layer2.training
    trained = {name.split(".")[0] for name, p in model.model.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "fc"}
    assert not ImageClassifier("resnet8").model.conv1.weight.grad_fn
    with pytest.raises(UserError, match="allowed: 0 to 3"):
        ImageClassifier("resnet8", frozen_stages=4)
    with pytest.raises(UserError, match=r"needs model\.weights"):
        ImageClassifier("resnet8", new_head=True)


def test_every_augmentation_resumes_to_the_same_bits(cli, tmp_path):
    options = "--data.policy rand --data.erasing 0.5 --data.mixup 0.4 --data.cutmix 1.0 --data.flip true"
    line = f"fit {SMALL} {options} --model.label_smoothing 0.1 --trainer.max_epochs 2 --run_dir"
    assert cli(f"{line} {tmp_path}/reference").status == 0
    strike = STRIKE.format(mark=tmp_path / "mark", step=7, place="train", name="SIGTERM")
    assert cli(f"{line} {tmp_path}/run {strike}").status == 75
    assert cli(f"{line} {tmp_path}/run {strike}").status == 0
    assert_same_result(tmp_path / "run", tmp_path / "reference")


EIGHT = "--data tests.small.Originals"  # pixels
AVERAGED = "--model.ema_decay 0.9"


@pytest.mark.parametrize(
    ("option", "without"),
    [
        ("--data.flip alternating", "--data.flip true"),
        (f"{EIGHT} --data.first_size 4 --data.grow_epochs '[0,1]'", EIGHT),
        ("--model.optim.norm_bias_lr 64", ""),
        ("--model.norm_momentum 0.4", ""),
        (f"{AVERAGED} --model.ema_warmup true", AVERAGED),
    ],
)
def test_options_of_short_trainings_count_and_resume_to_the_same_bits(cli, finished, tmp_path, option, without):
    line = f"fit {SMALL} --trainer.max_epochs 3 {option}"
    assert_goes_on(cli, tmp_path, line, [(7, "train"), (5, "epoch end")])
    found, others = rows(tmp_path / "reference"), rows(finished(cli, without))
    assert [row["val/loss"] for row in found] != [row["val/loss"] for row in others]
    assert [row["lr"] for row in found] == [row["lr"] for row in others]


def test_norm_momentum_is_the_weight_of_a_batch():
    model = ImageClassifier("resnet8", norm_momentum=0.4)
    images = torch.randn(8, 3, 16, 16)
    model.train()
    model(images)
    seen = model.model.conv1(images)
    torch.testing.assert_close(model.model.bn1.running_mean, 0.4 * seen.mean((0, 2, 3)))
    torch.testing.assert_close(model.model.bn1.running_var, 0.6 + 0.4 * seen.transpose(0, 1).flatten(1).var(1))
    assert ImageClassifier("resnet8").model.bn1.momentum == 0.1


def test_the_rate_of_large_batches_is_said_and_used(cli, tmp_path):
    small = SMALL.replace("warmup 1", "warmup 0 --model.schedule.name constant")
    line = f"fit {small} --model.optim.lr 0.05 --model.optim.lr_batch 64 --trainer.max_epochs 1"
    result = cli(f"{line} --run_dir {tmp_path}/run")
    assert "rate 0.2 = 0.05 x 256 / 64" in result.out
    (row,) = rows(tmp_path / "run")
    assert float(row["lr"]) == 0.2
    assert float(row["samples"]) == 5 * 256
    assert float(row["grad_norm"]) > 0
