"""Every protocol on a network that was trained, over 64 of ImageNet's own pictures: minutes of work."""

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from tests import images, ranks
from tests.conftest import SHARED, checkpoint
from tests.evaluation.test_protocols import LINE, answers, close, expected, folder, noted, opened

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
    for number, (root, how) in enumerate([(tree, ""), (tars, f"--data.num_workers 2 {ranks.TWO}")]):
        file = tmp_path / f"answers{number}"
        ranks.run(f"{LINE} {weights} --data.root {root} --protocol {','.join(NAMES)} {noted(file)} {how}")
    for number, name in enumerate(NAMES):
        wanted = expected(network, opened(tree), name)
        for file in (tmp_path / "answers0", tmp_path / "answers1"):
            found = answers(file, number)
            assert len(found.argmax(1).unique()) >= 5
            close(found, wanted)
    few = folder(tmp_path / "few", pictures[:10], CLASSES)
    ranks.run(f"{LINE} {weights} --data.root {few} --protocol multi-scale {noted(tmp_path / 'five')}")
    close(answers(tmp_path / "five"), expected(network, opened(few), "multi-scale"))
