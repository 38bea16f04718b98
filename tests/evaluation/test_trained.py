"""Every protocol on a network that was trained, over 64 of ImageNet's own pictures: minutes of work."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from tests import images
from tests.conftest import SHARED, checkpoint, process
from tests.evaluation.test_protocols import LINE, answers, close, expected, folder, noted, opened
from tests.ranks import TWO

CLASSES = tuple("abcdefghij")  # as many as the network knows, and others: what is compared is what it answers
NAMES = ("center", "flip", "ten-crop", "dense")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of 18 layers after three epochs of Tiny ImageNet's ten classes, and where its weights are."""
    made: list[Path] = []

    def make(cli):
        if not made:
            at = tmp_path_factory.mktemp("trained")
            (at / "tiny.tar").symlink_to(SHARED / "data" / "tiny-imagenet-10.tar")
            sizes = "--data.train_size 64 --data.eval_resize 64 --data.eval_size 64 --data.batch_size 64"
            how = "--model.arch resnet18 --model.schedule.name one_cycle --trainer.max_epochs 3 --wandb.mode disabled"
            assert cli(f"fit --data ImageFolder --data.root {at}/tiny.tar {sizes} {how} --run_dir {at}/run").status == 0
            state = checkpoint(at / "run")["state_dict"]
            torch.save({key.removeprefix("model."): value for key, value in state.items()}, at / "w.pt")
            made.append(at / "w.pt")
        network = resnet18(num_classes=10)
        network.load_state_dict(torch.load(made[0]))
        return network.double().eval(), f"--model.arch resnet18 --model.weights {made[0]}"

    return make


@pytest.mark.slow
def test_the_pictures_probabilities_are_the_reference_s_wherever_they_are_made(cli, trained, pictures, tmp_path):
    network, weights = trained(cli)
    tree = folder(tmp_path / "tree", pictures, CLASSES)
    tars = images.tar(tree, tmp_path / "tars" / "all.tar").parent
    line = f"{LINE} {weights} --protocol {','.join(NAMES)}"
    assert cli(f"{line} --data.root {tree} {noted(tmp_path / 'one')}").status == 0
    two = process(f"{line} --data.root {tars} {noted(tmp_path / 'two')} --data.num_workers 2 {TWO}")
    two.communicate()
    assert two.returncode == 0
    for number, name in enumerate(NAMES):
        wanted = expected(network, opened(tree), name)
        for file in (tmp_path / "one", tmp_path / "two"):
            found = answers(file, number)
            assert len(found.argmax(1).unique()) >= 5
            close(found, wanted)
    few = folder(tmp_path / "few", pictures[:10], CLASSES)
    assert cli(f"{LINE} {weights} --data.root {few} --protocol multi-scale {noted(tmp_path / 'five')}").status == 0
    close(answers(tmp_path / "five"), expected(network, opened(few), "multi-scale"))
