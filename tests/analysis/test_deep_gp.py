"""The studies of deep Gaussian processes: draws, geometry and bounds against direct computations, and cells."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.special import sph_harm_y
from scipy.stats import multivariate_normal

from reslightning.analysis import deep_gp
from reslightning.analysis import deep_gp_priors as priors
from reslightning.analysis import deep_gp_sphere as sphere
from reslightning.analysis.deep_gp_findings import verdicts
from reslightning.errors import TrainingError, UserError

SMALL = {"points": (12, 20), "depths": (2,), "seeds": 2, "iterations": 3, "targets": ("harmonics",)}


def unit(count, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, 3))
    return torch.from_numpy(found / np.linalg.norm(found, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("kind", "square"),
    # E |J|^2 of two layers of two inputs, by independent A, B, C of standard normals: |A B|^2 is 8 in the mean,
    # |A B + C|^2 is 8 + 4, |(I + A)(I + B)|^2 is 2 (1 + 2)^2, with A and B halved in the square 2 (1 + 1)^2.
    [("plain", 8), ("input-connected", 12), ("residual", 18), ("scaled residual", 8)],
)
def test_jacobians_of_two_layers(kind, square):
    drawn = priors.jacobians(kind, 2, 2, 40_000, np.random.default_rng(0))
    squares = np.square(drawn).sum((1, 2))
    assert squares.mean() == pytest.approx(square, abs=4 * squares.std() / 200)


def test_ratios_are_those_of_differences_of_whole_functions():
    step = 1e-2
    inputs = np.array([[0.0, 0.0], [step, 0.0], [0.0, step]])
    drawn = priors.values("residual", 2, inputs, 4000, np.random.default_rng(0))
    differences = (drawn[:, 1:] - drawn[:, :1]).swapaxes(1, 2) / step
    by_chain = priors.jacobians("residual", 2, 2, 4000, np.random.default_rng(1))
    medians = [np.median(np.log(priors.ratios(found))) for found in (differences, by_chain)]
    assert medians[0] == pytest.approx(medians[1], abs=0.1)
    assert priors.ratios(np.array([[[3.0, 0.0], [0.0, -0.5]]])) == pytest.approx(6)


def test_variance_of_two_layers():
    inputs = np.linspace(-2, 2, 9)[:, None]
    # E (f2(x) - f2(y))^2 = 2 (1 - E exp(-d^2 / 2)) where d = f1(x) - f1(y) is N(0, 2 (1 - k(x, y))).
    first = 2 * (1 - np.exp(-np.square(inputs - inputs.T) / 2))
    second = 2 * (1 - 1 / np.sqrt(1 + first))
    drawn = priors.spread(priors.values("plain", 2, inputs, 20_000, np.random.default_rng(0)))
    assert drawn.mean() == pytest.approx(second.mean() / 2, abs=4 * drawn.std() / math.sqrt(20_000))


def test_a_residual_layer_keeps_what_a_plain_one_loses():
    inputs = np.linspace(-2, 2, 20)[:, None]
    middle = {
        kind: np.median(priors.spread(priors.values(kind, 8, inputs, 200, np.random.default_rng(0))))
        for kind in priors.PRIORS
    }
    assert middle["plain"] < 0.01 < 0.1 < min(value for kind, value in middle.items() if kind != "plain")


def test_exponential_map_and_projection():
    x, v = unit(20), 2 * unit(20, 1)
    tangent = sphere.project(x, v)
    for point, vector, flat, reached in zip(x, v, tangent, sphere.exponential(x, tangent), strict=True):
        point, vector = point.numpy(), vector.numpy()
        assert flat.numpy() == pytest.approx((np.eye(3) - np.outer(point, point)) @ vector)
        turn = np.outer(flat.numpy(), point) - np.outer(point, flat.numpy())  # the generator of the rotation
        assert reached.numpy() == pytest.approx(expm(turn) @ point)


def test_the_exponential_map_is_smooth_at_zero():
    x, v = unit(3), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    reached = sphere.exponential(x, v)
    reached.sum().backward()
    assert torch.equal(reached, x)
    assert v.grad.numpy() == pytest.approx(1)


def test_harmonics_are_scipys():
    x = unit(10)
    colatitude, azimuth = np.arccos(x[:, 2].numpy()), np.arctan2(x[:, 1].numpy(), x[:, 0].numpy())
    expected = []
    for degree in range(5):
        for order in range(-degree, degree + 1):
            values = math.sqrt(4 * math.pi) * sph_harm_y(degree, abs(order), colatitude, azimuth)
            part = values.imag if order < 0 else values.real
            expected.append((-1) ** order * (math.sqrt(2) if order else 1) * part)
    assert sphere.harmonics(x, 4).numpy() == pytest.approx(np.stack(expected, -1))


def angles(points):
    return np.arccos(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])


def test_targets_are_the_papers_harmonics():
    points = unit(50).numpy()
    turned = points @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # (x, -z, y)
    for name, order in (("harmonics", slice(None)), ("published", slice(None, None, -1))):
        first, second = angles(points)[order], angles(turned)[order]
        expected = sph_harm_y(2, 1, *first).real + sph_harm_y(1, 1, *second).real
        assert deep_gp.TARGETS[name].function(torch.from_numpy(points)).numpy() == pytest.approx(expected)


def moved(model):
    """Move all that is learnt away from where it starts, where much is 0."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=model.random, dtype=torch.float64)
    return model


def test_bound_of_a_deep_one():
    """The bound of one draw is that of a few lines of numpy, given the layer's noise."""
    x, y = unit(7), torch.linspace(-1, 1, 7, dtype=torch.float64)
    model = moved(sphere.DeepGP(2, residual=True, random=torch.Generator().manual_seed(0), degree=2))
    state = model.random.get_state()
    bound = model.bound(x, y, samples=1).item()
    noise = torch.randn(1, 7, 3, generator=model.random.set_state(state), dtype=torch.float64)[0].numpy()
    divergence = 0.0

    def layer(part, points):
        nonlocal divergence
        means, variances = [], []
        degrees = np.arange(sphere.KERNEL_DEGREE + 1)
        kernel = [parameter.detach().exp().numpy() for parameter in part.kernel.parameters()]
        for output, (length, smoothness, variance) in enumerate(zip(*kernel, strict=True)):
            density = (2 * smoothness / length**2 + degrees * (degrees + 1)) ** -(smoothness + 1)
            density *= variance / ((2 * degrees + 1) * density).sum()
            features = sphere.harmonics(torch.from_numpy(points), 2).numpy() * np.sqrt(density[[0] + 3 * [1] + 5 * [2]])
            log = part.log_root[output].detach().numpy()
            root = np.tril(log, -1) + np.diag(np.exp(np.diag(log)))
            mean, covariance = part.mean[output].detach().numpy(), root @ root.T
            divergence += (np.trace(covariance) + mean @ mean - 9 - np.linalg.slogdet(covariance)[1]) / 2
            means.append(features @ mean)
            above = ((2 * degrees + 1) * density)[3:].sum()
            variances.append(np.einsum("nf,fg,ng->n", features, covariance, features) + above)
        return np.stack(means, -1), np.stack(variances, -1)

    mean, variance = layer(model.hidden[0], x.numpy())
    vector = mean + np.sqrt(variance) * noise
    vector -= (vector * x.numpy()).sum(-1, keepdims=True) * x.numpy()
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    mean, variance = layer(model.output, np.cos(angle) * x.numpy() + np.sin(angle) * vector / angle)
    scale = model.log_noise.exp().item() ** 2
    expected = -(np.log(2 * np.pi * scale) + (np.square(y.numpy() - mean[:, 0]) + variance[:, 0]) / scale) / 2
    assert bound == pytest.approx(expected.sum() - divergence)


def test_the_bound_is_the_evidence_where_q_is_the_posterior(monkeypatch):
    monkeypatch.setattr(sphere, "KERNEL_DEGREE", 3)
    x, y = unit(15), torch.linspace(-1, 1, 15, dtype=torch.float64)
    model = moved(sphere.DeepGP(1, residual=True, random=torch.Generator().manual_seed(0), degree=3))
    exact = sphere.ExactGP(x, y)
    exact.kernel.load_state_dict(model.output.kernel.state_dict())
    exact.log_noise.data = model.log_noise.data
    scale = model.output.kernel()[0].repeat_interleave(torch.tensor([1, 3, 5, 7])).sqrt()
    features = (sphere.harmonics(x, 3) * scale).detach().numpy()
    noise = model.log_noise.exp().item() ** 2
    covariance = np.linalg.inv(np.eye(16) + features.T @ features / noise)
    root = np.linalg.cholesky(covariance)
    model.output.mean.data[0] = torch.from_numpy(covariance @ features.T @ y.numpy() / noise)
    model.output.log_root.data[0] = torch.from_numpy(np.tril(root, -1) + np.diag(np.log(np.diag(root))))
    evidence = multivariate_normal(cov=features @ features.T + noise * np.eye(15)).logpdf(y.numpy())
    assert model.bound(x, y).item() == pytest.approx(evidence)
    assert exact.bound(x, y).item() == pytest.approx(evidence)
    unseen = unit(5, 1)
    for one, other in ((model.predict(unseen, 1), exact.predict(unseen)),):
        assert one.mean.detach().numpy() == pytest.approx(other.mean.detach().numpy())
        assert one.scale.detach().numpy() == pytest.approx(other.scale.detach().numpy())


@pytest.mark.parametrize("residual", [True, False])
def test_a_fit_improves_the_bound(residual):
    x = sphere.lattice(40)
    y = deep_gp.TARGETS["harmonics"].function(x)
    model = sphere.DeepGP(2, residual=residual, random=torch.Generator().manual_seed(0))
    bounds = sphere.fit(model, x, y, 40)
    assert np.mean(bounds[-5:]) > np.mean(bounds[:5]) + 50
    likelihood, error = sphere.score(model, x, y)
    assert error < y.std()
    assert likelihood > torch.distributions.Normal(y.mean(), y.std()).log_prob(y).mean()


def test_a_residual_start_is_nearly_shallow():
    x = sphere.lattice(30)
    deep = sphere.DeepGP(3, residual=True, random=torch.Generator().manual_seed(0))
    seen = []
    deep.output.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    deep(x, 4)
    assert (seen[0] - x).norm(dim=-1).mean() < 0.03  # radians: two layers of 1e-4 / 2 in three directions, two tangent


def test_a_bound_without_value_ends_the_fit():
    x = sphere.lattice(5)
    model = sphere.DeepGP(1, residual=True, random=torch.Generator())
    with pytest.raises(TrainingError, match="at step 1"):
        sphere.fit(model, x, torch.full((5,), math.nan, dtype=torch.float64), 3)


def test_a_study_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys):
    measured = []

    def interrupted(*, stop=3, **setting):
        if len(measured) == stop:
            raise KeyboardInterrupt
        measured.append(setting)
        return fit(**setting)

    fit = deep_gp._fit
    monkeypatch.setattr(deep_gp, "TEST_POINTS", 50)
    monkeypatch.setattr(deep_gp, "_fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deep_gp.residual_study(tmp_path, **SMALL)
    assert len(list((tmp_path / "cells").iterdir())) == 3
    assert not (tmp_path / "residual.json").exists()
    (tmp_path / "cells" / "sphere-harmonics-12-exact-1-0-3.json").write_text('{"target": "harm')
    monkeypatch.setattr(deep_gp, "_fit", lambda **setting: interrupted(stop=99, **setting))
    result = deep_gp.residual_study(tmp_path, **SMALL)
    cells = 2 * 4 * 2  # points, models, seeds; the one that was cut is measured again
    assert len(measured) == cells + 1
    assert json.loads((tmp_path / "residual.json").read_text()) == result
    assert (tmp_path / "residual-harmonics.png").read_bytes().startswith(b"\x89PNG")
    assert {row["seeds"] for row in result["rows"]} == {2}
    out = capsys.readouterr().out
    assert "harmonics: f(x, y, z) = -sqrt(15/(8 pi)) x z" in out
    assert "depth helps with many points" in out
    deep_gp.residual_study(tmp_path, **SMALL)
    assert len(measured) == cells + 1
    assert "of 16:" not in "".join(capsys.readouterr())


def test_the_pathology_of_priors(tmp_path, capsys, monkeypatch):
    result = deep_gp.prior_pathology(tmp_path, depths=(1, 6), draws=50)
    cells = {(cell["kind"], cell["depth"]): cell for cell in result["cells"]}
    assert cells["plain", 6]["ratio"][1] > 5 * cells["scaled residual", 6]["ratio"][1]
    assert cells["plain", 6]["variance"][1] < 0.1 * cells["residual", 6]["variance"][1]
    assert json.loads((tmp_path / "pathology.json").read_text()) == result
    assert "8 of 8: kind scaled residual, depth 6" in capsys.readouterr().err
    monkeypatch.setattr(deep_gp, "_draw", None)
    assert deep_gp.prior_pathology(tmp_path, depths=(1, 6), draws=50) == result


def cells(**likelihoods):
    return [
        {"target": "t", "points": 9, "model": model, "depth": 1 + (model in ("residual", "plain")), "seed": seed}
        | {"log_likelihood": value}
        for model, values in likelihoods.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("residual", "expected"),
    [
        ((1.5, 1.6, 1.7), ["supported", "supported", "not supported", "supported"]),
        ((0.0, 0.1, 0.2), ["not supported", "not supported", "not supported", "not supported"]),
        ((1.0, 1.1, 1.2), ["not supported", "supported", "not supported", "not supported"]),
        ((0.0, 1.6, 3.0), ["not decided", "not decided", "not supported", "not decided"]),
        ((1.5,), ["not decided"] * 4),
    ],
)
def test_verdicts(residual, expected):
    same = (1.0, 1.1, 1.2)[: len(residual)]
    found = verdicts(cells(shallow=same, exact=same, plain=same, residual=residual))
    assert [each["verdict"] for each in found] == expected
    assert found[0]["difference"] == pytest.approx(np.mean(residual) - np.mean(same))


def test_no_verdict_on_depth_of_shallow_ones():
    assert verdicts(cells(shallow=(1.0,), exact=(1.0,))) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": (100, 0)}, "points 100, 0 not allowed; give whole numbers of 1 or more"),
        ({"depths": ()}, "depths empty not allowed"),
        ({"seeds": -1}, "seeds -1 not allowed"),
        ({"iterations": 0}, "iterations 0 not allowed"),
        ({"targets": ("harmonic",)}, "targets harmonic unknown; allowed: published, harmonics"),
    ],
)
def test_mistakes(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        deep_gp.residual_study(tmp_path / "new", **(SMALL | changed))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be written to: Not a directory"):
        deep_gp.prior_pathology(tmp_path / "file")
