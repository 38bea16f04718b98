"""Batch statistics as exact averages over training images, of one network and of averaged ones."""

import shutil

import numpy as np
import pytest
import torch

from reslightning.data.sampler import LANES, WholeBatches
from reslightning.evaluation.recalibrate import BATCH, normalisations
from reslightning.train.build import load
from tests import ranks
from tests.conftest import SMALL, checkpoint, summary
from tests.small import Thumbnails

IMAGES = 300


def statistics(run, data: Thumbnails, images: int) -> dict[str, np.ndarray]:
    """Return mean and variance of every normalisation's inputs, by numpy, over the same batches."""
    model = load(run)
    norms = normalisations(model)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in norms}

    def look(name, norm, inputs):
        channels = inputs.detach().transpose(0, 1).reshape(inputs.shape[1], -1)
        seen[name].append(channels.numpy().astype(np.float64))
        norm.running_mean.copy_(channels.mean(1))
        norm.running_var.copy_(channels.var(1, correction=0))

    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda norm, inputs, name=name: look(name, norm, inputs[0]))
    sampler = WholeBatches(data.n_samples("train"), images, BATCH, seed=data.seed, rank=0, world_size=1)
    with torch.no_grad():
        for batch in torch.tensor(list(sampler)).split(BATCH):
            model(data.evaluation_batch(batch, "train")[0])
    found = {}
    for name, parts in seen.items():
        everything = np.concatenate(parts, 1)
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = everything.mean(1), everything.var(1)
    return found


def averaged(cli, run, images, to) -> dict[str, torch.Tensor]:
    """Return the recalibrated weights of a run, averaged with themselves."""
    copy = to / "copy.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", copy)
    found = cli(f"average {run} {copy} --to {to}/average.ckpt --recalibrate {images}")
    assert found.status == 0, found.err
    return torch.load(to / "average.ckpt", weights_only=True)


def test_they_are_numpy_s_mean_and_variance_over_the_same_activations(cli, finished, tmp_path):
    run = finished(cli)
    found = averaged(cli, run, IMAGES, tmp_path)["state_dict"]
    data = Thumbnails()
    wanted = statistics(run, data, IMAGES)
    before = checkpoint(run)["state_dict"]
    assert len(wanted) == 14
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=2e-5, atol=2e-6)
        assert not torch.equal(found[name], before[name])
    for name, value in before.items():
        assert name in wanted or torch.equal(found[name], value)


def test_two_processes_evaluate_by_the_same_statistics_and_nothing_takes_another_s_place(cli, finished, tmp_path):
    run = finished(cli)
    plain = cli(f"test --run_dir {run}")
    one = cli(f"test --run_dir {run} --recalibrate {IMAGES}")
    file = run / "evaluations" / f"test-center-recalibrated-{IMAGES}.json"
    assert f"batch normalisation by the averages over {IMAGES} training images" in one.out
    assert "batch normalisation by" not in plain.out
    first = file.read_text()
    out = ranks.run(f"test --run_dir {run} --recalibrate {IMAGES} {ranks.TWO}")
    second = file.read_text()

    def loss(text):
        return next(line for line in text.splitlines() if '"test/loss"' in line)

    assert loss(first).split(".")[1][:6] == loss(second).split(".")[1][:6]
    assert "error" in out
    assert (run / "evaluations" / "test-center.json").is_file()
    shown = cli(f"compare {run} --protocol center")
    assert f"test-center-recalibrated-{IMAGES}" in shown.out


@pytest.mark.parametrize("world_size", [1, 2, 3, 64, 100])
@pytest.mark.parametrize(("population", "samples"), [(1000, 1000), (50_000, 20_001), (10, 1)])
def test_batches_are_dealt_out_whole_and_are_the_same_at_any_number_of_processes(world_size, population, samples):
    def dealt(rank, processes):
        sampler = WholeBatches(population, samples, BATCH, seed=3, rank=rank, world_size=processes)
        batches = torch.tensor(list(sampler), dtype=torch.int64).split(BATCH) if len(sampler) else ()
        return dict(zip(sampler.numbers, [tuple(batch.tolist()) for batch in batches], strict=True))

    everything = dealt(0, 1)
    parts = [dealt(rank, world_size) for rank in range(world_size)]
    assert {number: batch for part in parts for number, batch in part.items()} == everything
    assert sum(len(part) for part in parts) == len(everything)
    lanes = [{number % LANES for number in part} for part in parts]
    assert sum(map(len, lanes)) == len(set().union(*lanes))
    images = [index for batch in everything.values() for index in batch]
    assert len(set(images)) == len(images) == samples


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("test --run_dir RUN --recalibrate 1439", "more than the 1438 training images\nallowed: at most 1438"),
        ("test --run_dir RUN --recalibrate 0", "recalibrate=0 is out of range"),
        (f"fit {SMALL} --recalibrate 10", "--recalibrate means nothing to fit"),
        ("average RUN --to a.ckpt", "needs two checkpoints or more"),
        ("average RUN last.ckpt --to RUN/config.yaml", "is a file that the run"),
        ("average RUN last.ckpt --to .", "is a folder"),
        ("average last.ckpt RUN --to a.ckpt", "lies in no run directory"),
        ("average RUN last.ckpt --to a.ckpt --recalibrate 9999", "more than the 1438 training images"),
        ("average RUN none.ckpt --to a.ckpt", "none.ckpt"),
        ("average RUN other.ckpt --to a.ckpt", "model.arch: resnet8 there, resnet14 here"),
        ("average RUN bare.pt --to a.ckpt", "it does not say of which network"),
    ],
)
def test_mistakes(cli, finished, tmp_path, line, said):
    run = finished(cli)
    content = checkpoint(run)
    torch.save(content, "last.ckpt")
    torch.save(content["state_dict"], "bare.pt")
    torch.save(content | {"hyper_parameters": content["hyper_parameters"] | {"arch": "resnet14"}}, "other.ckpt")
    before = (run / "config.yaml").read_text()
    found = cli(line.replace("RUN", str(run)))
    assert found.status == 2, found.out
    assert said in found.err
    assert not (tmp_path / "a.ckpt").exists()
    assert (run / "config.yaml").read_text() == before


def test_an_average_of_weights_is_their_mean_and_is_evaluated_as_a_checkpoint(cli, finished, tmp_path):
    runs = [finished(cli), finished(cli, "--seed_everything 1")]
    said = cli(f"average {runs[0]} {runs[1]} --to {tmp_path}/a.ckpt --recalibrate 0")
    assert "batch statistics averaged, too" in said.out
    found = torch.load(tmp_path / "a.ckpt", weights_only=True)
    states = [checkpoint(run)["state_dict"] for run in runs]
    for name, value in found["state_dict"].items():
        mean = (states[0][name].double() + states[1][name].double()) / 2
        assert torch.equal(value, mean.to(value.dtype) if value.is_floating_point() else states[0][name])
    assert cli(f"test --run_dir {runs[0]} --ckpt_path {tmp_path}/a.ckpt").status == 0
    assert summary(runs[0])["status"] == "finished"


def test_without_training_images_it_is_refused(cli, tmp_path, finished):
    from tests import images

    for number in range(4):
        for name in "ab":
            path = tmp_path / "data" / "val" / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(images.jpeg(number))
    weights = tmp_path / "w.pt"
    from reslightning.models.resnet import build_model

    torch.save(build_model("resnet8", num_classes=2).state_dict(), weights)
    line = f"test --data ImageFolder --data.root {tmp_path}/data --model.arch resnet8 --model.weights {weights}"
    found = cli(f"{line} --recalibrate 4")
    assert found.status == 2
    assert "There are none: give the data with its training part" in found.err
