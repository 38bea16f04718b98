"""Every image's probabilities in a file, ensembles of such files, and how sure their accuracies are."""

import json
import math
import os
import shutil
import signal

import numpy as np
import pytest

from reslightning.errors import UserError
from reslightning.evaluation.answers import Answers
from reslightning.evaluation.certainty import mcnemar, wilson
from reslightning.evaluation.ensemble import aligned, ensemble
from tests import ranks
from tests.conftest import SMALL, summary

FACTS = {"split": "test", "part": "test", "dataset": "D", "fingerprint": {"data": "d"}, "files": True}


def answers(seed: int = 0, images: int = 40, classes=("a", "b", "c"), **facts) -> Answers:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(len(classes)), images)
    labels = np.arange(images) % len(classes)
    return Answers(np.array([f"i{k:03}" for k in range(images)]), labels, probabilities, list(classes), FACTS | facts)


def evaluation(run) -> dict:
    return json.loads((run / "evaluations" / "test-center.json").read_text())


@pytest.fixture(scope="module")
def three(finished, tmp_path_factory):
    """Three trained networks of the digits with saved tests."""
    made = []

    def make(cli):
        if not made:
            for seed in (0, 1, 2):
                run = finished(cli, f"--seed_everything {seed}")
                assert cli(f"test --run_dir {run} --save").status == 0
                made.append(run)
        return made

    return make


def test_an_ensemble_is_numpy_s_mean_and_of_one_it_is_that_one(cli, three, tmp_path):
    runs = three(cli)
    parts = [Answers.read(run / "evaluations" / "test-center.npz") for run in runs]
    shuffled = np.random.default_rng(0).permutation(len(parts[1].names))
    columns = np.arange(10)[::-1]
    other = Answers(
        parts[1].names[shuffled],
        np.argsort(columns)[parts[1].labels[shuffled]],
        parts[1].probabilities[shuffled][:, columns],
        [parts[1].classes[column] for column in columns],
        parts[1].facts,
    )
    other.write(tmp_path / "other.npz")
    assert cli(f"ensemble {runs[0]} {tmp_path}/other.npz {runs[2]} --save {tmp_path}/all.npz").status == 0
    found = Answers.read(tmp_path / "all.npz")
    assert np.array_equal(found.probabilities, np.mean([part.probabilities for part in parts], 0))
    assert np.array_equal(found.names, parts[0].names)
    assert np.array_equal(found.labels, parts[0].labels)
    one = json.loads(cli(f"ensemble {runs[0]} --json").out)
    metrics = {name.removeprefix("test/"): value for name, value in evaluation(runs[0])["metrics"].items()}
    for name, value in one["ensemble"]["metrics"].items():
        assert math.isclose(value, metrics[name], rel_tol=1e-6)
    assert one["ensemble"]["metrics"]["top1"] == metrics["top1"]
    assert one["ensemble"]["metrics"]["top5"] == metrics["top5"]
    assert np.array_equal(ensemble(parts[:1], [1.0]).probabilities, parts[0].probabilities)


def test_it_says_what_members_and_their_mean_are(cli, three):
    runs = three(cli)
    said = cli(f"ensemble {' '.join(map(str, runs))} --weights 2,1,1").out
    for run in runs:
        assert f"{100 * (1 - summary(run)['metrics']['val/top1']):.2f} %" in said
    assert "mean of the members" in said
    assert "ensemble of 3" in said
    assert said.count("these two networks on the same images") == 3
    assert "recipe" not in said


def test_a_saved_evaluation_is_the_same_of_two_processes_with_a_saved_one_beside_each_protocol(cli, three, tmp_path):
    run = three(cli)[0]
    out = ranks.run(f"test --run_dir {run} --protocol center,flip --save {ranks.TWO}")
    assert out.count("probabilities written") == 2
    centers = sorted((run / "evaluations").glob("test-center*.npz"))
    one, two = (Answers.read(file) for file in centers) if len(centers) == 2 else (Answers.read(centers[0]),) * 2
    assert np.array_equal(one.names, two.names)
    assert np.abs(one.probabilities - two.probabilities).max() < 1e-6
    flips = Answers.read(run / "evaluations" / "test-flip.npz")
    assert len(flips.names) == 359
    assert not np.array_equal(flips.probabilities, one.probabilities)
    for file in (run / "evaluations").glob("test-flip*"):
        file.unlink()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("x.txt", "allowed: FILE.npz"),
        ("folder.npz", "is a folder"),
        ("file/x.npz", "cannot be written: Not a directory"),
        ("/proc/x.npz", "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_is_said_before_anything_is_evaluated(cli, three, tmp_path, place, said):
    run = three(cli)[0]
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("")
    found = cli(f"test --run_dir {run} --save {place}")
    assert found.status == 2
    assert said in found.err
    assert "error" not in found.out


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("reslightning.train.evaluator.Evaluator.test_step", "--save"),
        ("reslightning.evaluation.recalibrate._Statistics._look", "--recalibrate 512 --save"),
        ("numpy.savez", "--save"),
        ("json.dumps", "--save"),
    ],
)
def test_an_evaluation_that_is_stopped_leaves_nothing(cli, three, tmp_path, monkeypatch, name, place, options):
    run = shutil.copytree(three(cli)[0], tmp_path / "run")
    before = contents(run)

    def struck(*given, **named):
        os.kill(os.getpid(), signal.Signals[name])
        raise AssertionError("it went on")

    monkeypatch.setattr(place, struck)
    found = cli(f"test --run_dir {run} {options}")
    assert found.status == {"SIGTERM": 75, "SIGINT": 130}[name], found.err
    assert "Traceback" not in found.err
    assert contents(run) == before


def test_what_has_no_place_is_refused(cli, three, tmp_path):
    run = three(cli)[0]
    found = cli(f"test --run_dir {run} --protocol center,flip --save x.npz")
    assert (found.status, "one file for 2 protocols" in found.err) == (2, True)
    weights = f"--data tests.small.Thumbnails --model.arch resnet8 --model.weights {run}"
    found = cli(f"test {weights} --save")
    assert (found.status, "--save without --run_dir" in found.err) == (2, True)
    found = cli(f"fit {SMALL} --save")
    assert (found.status, "--save means nothing to fit" in found.err) == (2, True)


def test_members_that_do_not_match_are_refused_with_what_differs():
    one = answers()
    for other, said in (
        (answers(images=39), "1 in the first alone: i039"),
        (answers(images=60), r"20 in the second alone: i040, .*i049 and 10 more"),
        (answers(classes=("a", "b", "d")), "1 in the first alone: c"),
        (answers(fingerprint={"data": "e"}, files=False), "saw other images"),
    ):
        with pytest.raises(UserError, match=said):
            aligned({"x": one if other.facts["files"] else answers(files=False), "y": other})
    wrong = answers()
    wrong.labels[:12] = (wrong.labels[:12] + 1) % 3
    with pytest.raises(UserError, match=r"other labels of 12 images:\n  i000: a, b(.*\n)*  and 2 more"):
        aligned({"x": one, "y": wrong})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": np.array(["a"] * 40)}, "two of its images have one name"),
        ({"labels": np.full(40, 3)}, "its labels are none of its classes"),
        ({"probabilities": np.full((40, 3), np.nan)}, "its probabilities are none"),
        ({"probabilities": np.ones((39, 3))}, "different lengths"),
        ({"facts": np.array('{"format": 2}')}, "its format is 2"),
        ({"facts": np.array('{"format": 1}')}, "does not say its split"),
        ({"facts": np.array("{")}, "JSONDecodeError"),
        ({"names": np.array([None] * 40)}, "allow_pickle"),
        ({"names": None}, "KeyError"),
    ],
)
def test_a_file_that_is_none_is_refused(cli, tmp_path, change, said):
    answers().write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = {name: value for name, value in ({**file} | change).items() if value is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    found = cli(f"ensemble {tmp_path}/a.npz")
    assert found.status == 2
    assert said in found.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.npz a.npz", "given twice"),
        ("a.npz b.npz --weights 1", "allowed: 2 numbers"),
        ("a.npz b.npz --weights 1,-1", "allowed: 2 numbers"),
        ("a.npz b.npz --weights 0,0", "allowed: 2 numbers"),
        ("a.npz b.npz --weights 1,x", "allowed: 2 numbers"),
        ("a.npz none.npz", "cannot read none.npz"),
        ("a.npz folder", "has no saved evaluation"),
        ("a.npz text.npz", "holds no answers"),
        ("a.npz b.npz --save x", "allowed: FILE.npz"),
    ],
)
def test_mistakes(cli, tmp_path, line, said):
    answers(0).write(tmp_path / "a.npz")
    answers(1).write(tmp_path / "b.npz")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.npz").write_text("text")
    found = cli(f"ensemble {line}")
    assert found.status == 2
    assert said in found.err
    assert "Traceback" not in found.err


def test_wilson_s_interval_is_the_textbook_s():
    for hits, count in ((0, 10), (7, 10), (10, 10), (9028, 10_000)):
        z, share = 1.959963984540054, hits / count
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        low, high = wilson(hits, count)
        assert math.isclose(low, max(middle - half, 0), abs_tol=1e-12)
        assert math.isclose(high, min(middle + half, 1), abs_tol=1e-12)


def test_mcnemar_s_test_is_a_fair_coin_s():
    def expected(one, other):
        total, few = one + other, min(one, other)
        return min(1.0, 2 * sum(math.comb(total, k) for k in range(few + 1)) / 2**total)

    for one, other in ((0, 0), (0, 5), (5, 0), (7, 7), (12, 30)):
        assert math.isclose(mcnemar(one, other), expected(one, other))


def test_an_evaluation_s_file_has_intervals_calibration_and_confused_pairs(cli, three):
    run = three(cli)[0]
    found = evaluation(run)
    saved = Answers.read(run / "evaluations" / "test-center.npz")
    guesses, confidence = saved.probabilities.argmax(1), saved.probabilities.max(1)
    assert found["intervals"]["top1"] == list(wilson(int(saved.right.sum()), 359))
    assert sum(row["images"] for row in found["calibration"]) == 359
    assert math.isclose(
        sum(row["images"] * row["confidence"] for row in found["calibration"]), confidence.sum(), rel_tol=1e-6
    )
    pair = found["confused"][0]
    label, guess = saved.classes.index(pair["class"]), saved.classes.index(pair["taken_for"])
    assert pair["images"] == int(((saved.labels == label) & (guesses == guess)).sum())
    assert pair["images"] == max(row["images"] for row in found["confused"])
    assert label != guess
    assert set(saved.metrics()) == {name.removeprefix("test/") for name in found["metrics"]}
