"""Every protocol on a network that was trained, over 64 of ImageNet's own pictures: minutes of work."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from tests import images
from tests.conftest import SHARED, checkpoint, process
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
@pytest.mark.parametrize(("names", "count"), [(NAMES, 64), (("multi-scale",), 10)])
def test_the_pictures_probabilities_are_the_reference_s_however_they_are_made(
    cli, trained, pictures, tmp_path, names, count
):
    network, weights = trained(cli)
    tree = folder(tmp_path / "tree", pictures[:count], CLASSES)
    tars = images.tar(tree, tmp_path / "tars" / "all.tar").parent
    wanted = [expected(network, opened(tree), name) for name in names]
    for number, (processes, workers, batch, root) in enumerate(settings(tree, tars)):
        line = f"{LINE.replace('ImageFolder', 'tests.small.Batches')} {weights} --protocol {','.join(names)}"
        line += f" --data.root {root} --data.at_a_time {batch} --data.num_workers {workers}"
        line += f" --trainer.devices {processes} --trainer.accelerator cpu {noted(tmp_path / f'note{number}')}"
        if processes == 1:
            assert cli(line).status == 0
        else:
            several = process(line)
            several.communicate()
            assert several.returncode == 0
        for evaluation, answer in enumerate(wanted):
            found = answers(tmp_path / f"note{number}", evaluation)
            assert len(found.argmax(1).unique()) >= (5 if count == 64 else 2)
            close(found, answer)


def settings(tree: Path, tars: Path) -> list[tuple[int, int, int, Path]]:
    """Processes, workers, batch and source, each value of one with each of every other."""
    rows = [(1, 0, 1, tree), (2, 2, 1, tars), (1, 2, 7, tars), (2, 0, 7, tree), (1, 0, 64, tars), (2, 2, 64, tree)]
    columns = list(zip(*rows, strict=True))
    for one, other in itertools.combinations(columns, 2):
        assert set(zip(one, other, strict=True)) == set(itertools.product(one, other))
    return rows


@pytest.mark.slow
def test_five_scales_are_the_reference_s(cli, trained, pictures, tmp_path):
    network, weights = trained(cli)
    tree = folder(tmp_path / "tree", pictures, CLASSES)
    torch.set_num_threads(os.cpu_count() or 1)  # 17 TFLOP
    line = f"{LINE} {weights} --data.root {tree} --data.num_workers 2 --protocol multi-scale {noted(tmp_path / 'five')}"
    assert cli(line).status == 0
    found = answers(tmp_path / "five")
    assert len(found.argmax(1).unique()) >= 5
    close(found, expected(network, opened(tree), "multi-scale"))
