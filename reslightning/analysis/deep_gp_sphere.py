"""Deep Gaussian processes on the sphere S^2 by doubly stochastic variational inference (arXiv:2411.00161, 1705.08933).

A layer's q is over the coefficients of spherical harmonics, in which the kernel is diagonal (arXiv:2006.16649): no
matrix of inducing points is inverted, and what lies above the features' degree keeps its prior.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from reslightning.errors import TrainingError

DEGREE = 6  # of the features: 49 harmonics, as many as the paper has inducing variables
KERNEL_DEGREE = 25  # where the kernel's series ends
HIDDEN_VARIANCE = 1e-4  # of all hidden layers together at the start, the paper's
NARROW = 0.05  # standard deviation at the start of q of coefficients that have to be found; of the prior it is 1
NOISE = 0.1  # standard deviation of the observations at the start


def project(x: Tensor, v: Tensor) -> Tensor:
    """Return the part of vectors v [..., 3] that is tangent to the sphere at x [..., 3]."""
    return v - (v * x).sum(-1, keepdim=True) * x


def exponential(x: Tensor, v: Tensor) -> Tensor:
    """Return where the geodesic from x [..., 3] along the tangent v [..., 3] is after its length, in radians."""
    angle = v.square().sum(-1, keepdim=True).clamp_min(1e-30).sqrt()  # whose gradient at v = 0 is 0, not NaN
    return angle.cos() * x + torch.sinc(angle / math.pi) * v


def lattice(count: int) -> Tensor:
    """Return points [count, 3] spread evenly over the sphere: the Fibonacci lattice, the paper's inputs."""
    index = torch.arange(count, dtype=torch.float64)
    longitude = 4 * math.pi * index / (1 + math.sqrt(5))
    z = 1 - (2 * index + 1) / count
    return torch.stack([(1 - z * z).sqrt() * longitude.cos(), (1 - z * z).sqrt() * longitude.sin(), z], -1)


def harmonics(x: Tensor, degree: int) -> Tensor:
    """Return the real spherical harmonics [..., (degree + 1)^2] at x [..., 3], by degree, then order -l to l.

    Each has mean square 1 over the sphere, so that those of degree l have squares that sum to 2 l + 1 at every point.
    They are polynomials of x, smooth at the poles: z's is the associated Legendre polynomial over sin^m.
    """
    east, north, z = x.unbind(-1)
    cosine, sine = torch.ones_like(z), torch.zeros_like(z)
    found: dict[tuple[int, int], Tensor] = {}
    for m in range(degree + 1):
        before, legendre = torch.zeros_like(z), torch.full_like(z, math.prod(range(1, 2 * m, 2)))
        for l in range(m, degree + 1):  # noqa: E741 (the field's letter)
            norm = math.sqrt((2 * l + 1) * (2 if m else 1) * math.factorial(l - m) / math.factorial(l + m))
            found[l, m] = norm * legendre * cosine
            if m:
                found[l, -m] = norm * legendre * sine
            following = ((2 * l + 1) * z * legendre - (l + m) * before) / (l - m + 1)
            before, legendre = legendre, following
        cosine, sine = cosine * east - sine * north, cosine * north + sine * east
    return torch.stack([found[key] for key in sorted(found)], -1)


class Matern(nn.Module):
    """Matern kernels on the sphere, one for each output (arXiv:2006.10160), by their variances of each degree."""

    degrees: Tensor

    def __init__(self, outputs: int, variance: float) -> None:
        super().__init__()
        start = torch.zeros(outputs, dtype=torch.float64)
        self.log_lengthscale = nn.Parameter(start.clone())  # radians
        self.log_smoothness = nn.Parameter(start + math.log(1.5))
        self.log_variance = nn.Parameter(start + math.log(variance))
        self.register_buffer("degrees", torch.arange(KERNEL_DEGREE + 1, dtype=torch.float64))

    def forward(self) -> Tensor:
        """Return the variance of one harmonic of each degree, [outputs, KERNEL_DEGREE + 1]."""
        smoothness = self.log_smoothness.exp()[:, None]
        frequency = self.degrees * (self.degrees + 1) * (2 * self.log_lengthscale[:, None]).exp() / (2 * smoothness)
        density = torch.exp(-(smoothness + 1) * torch.log1p(frequency))
        return self.log_variance.exp()[:, None] * density / (density @ self.counts)[:, None]

    @property
    def counts(self) -> Tensor:
        """How many harmonics each degree has."""
        return 2 * self.degrees + 1


class Layer(nn.Module):
    """Independent Gaussian processes on the sphere with q(w) = N(mean, root root^T) over whitened coefficients w."""

    def __init__(self, outputs: int, variance: float, degree: int = DEGREE) -> None:
        super().__init__()
        self.degree = degree
        self.kernel = Matern(outputs, variance)
        count = (degree + 1) ** 2
        self.mean = nn.Parameter(torch.zeros(outputs, count, dtype=torch.float64))
        self.log_root = nn.Parameter(torch.zeros(outputs, count, count, dtype=torch.float64))  # log on the diagonal

    @property
    def root(self) -> Tensor:
        """The lower triangular root of q's covariance, [outputs, features, features]: at the start the prior's."""
        return self.log_root.tril(-1) + self.log_root.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    @torch.no_grad()
    def narrow(self, random: torch.Generator | None = None) -> None:
        """Start q narrow, around the prior's mean or a draw of the prior.

        From the prior's own width Adam takes thousands of steps to believe what it sees.
        """
        if random is not None:
            self.mean.normal_(generator=random)
        self.log_root.diagonal(dim1=-2, dim2=-1).fill_(math.log(NARROW))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return q's means and variances [..., outputs] of each process at each x [..., 3]."""
        spectrum, counts = self.kernel(), self.kernel.counts
        scale = spectrum[:, : self.degree + 1].repeat_interleave(counts[: self.degree + 1].long(), -1).sqrt()
        features = harmonics(x, self.degree)[..., None, :] * scale  # [..., outputs, features]
        above = spectrum[:, self.degree + 1 :] @ counts[self.degree + 1 :]
        variance = torch.einsum("...of,ofg->...og", features, self.root).square().sum(-1) + above
        return (features * self.mean).sum(-1), variance

    def divergence(self) -> Tensor:
        """Return KL(q || prior) in nats; what lies above the features' degree adds none."""
        one = torch.eye(self.mean.shape[-1], dtype=torch.float64)
        posterior = MultivariateNormal(self.mean, scale_tril=self.root)
        return torch.distributions.kl_divergence(posterior, MultivariateNormal(torch.zeros_like(self.mean), one)).sum()


class DeepGP(nn.Module):
    """A deep Gaussian process from the sphere to numbers, whose hidden layers go from the sphere to itself.

    A residual hidden layer is x -> exp_x(v(x)), v three ambient processes projected to the tangent plane; it starts at
    its prior, close to the identity. A plain one is x -> g(x) / |g(x)|, g three ambient processes of mean 0; their q
    starts narrow around a draw of the prior: around the prior's mean, the centre, the direction of g would be noise.

    Args:
        depth: layers, 1 or more; of 1 it is a shallow sparse Gaussian process.
        residual: the hidden layers' form.
        random: where a plain layer's start and draws of training and prediction come from.
    """

    def __init__(self, depth: int, *, residual: bool, random: torch.Generator, degree: int = DEGREE) -> None:
        super().__init__()
        variance = HIDDEN_VARIANCE / max(depth - 1, 1) if residual else 1.0
        layers = [Layer(3, variance, degree) for _ in range(depth - 1)]
        self.hidden, self.output = nn.ModuleList(layers), Layer(1, 1.0, degree)
        self.log_noise = nn.Parameter(torch.tensor(math.log(NOISE), dtype=torch.float64))
        self.residual, self.random = residual, random
        self.output.narrow()
        for layer in () if residual else layers:
            layer.narrow(random)

    def forward(self, x: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Return means and variances [samples, N] of the last layer at x [N, 3], given draws of those before."""
        x = x.expand(samples, *x.shape)
        for layer in self.hidden:
            mean, variance = layer(x)
            drawn = mean + variance.sqrt() * torch.randn(mean.shape, generator=self.random, dtype=mean.dtype)
            x = exponential(x, project(x, drawn)) if self.residual else nn.functional.normalize(drawn, dim=-1)
        mean, variance = self.output(x)
        return mean[..., 0], variance[..., 0]

    def bound(self, x: Tensor, y: Tensor, samples: int = 3) -> Tensor:
        """Return an unbiased draw of the evidence lower bound of y [N] at x [N, 3], in nats."""
        mean, variance = self(x, samples)
        noise = self.log_noise.exp()
        likelihood = Normal(mean, noise).log_prob(y) - variance / (2 * noise.square())
        return likelihood.mean(0).sum() - sum(part.divergence() for part in self.modules() if isinstance(part, Layer))

    def predict(self, x: Tensor, samples: int = 10) -> Normal:
        """Return the components [samples, N] of the even mixture that observations at x [N, 3] are predicted by."""
        mean, variance = self(x, samples)
        return Normal(mean, (variance + (2 * self.log_noise).exp()).sqrt())


class ExactGP(nn.Module):
    """A shallow Gaussian process without features: the kernel's whole series, and the exact posterior."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.kernel = Matern(1, 1.0)
        self.log_noise = nn.Parameter(torch.tensor(math.log(NOISE), dtype=torch.float64))
        self.x, self.y = x, y
        self.legendre = self.polynomials(x)  # [degrees, N, N]

    def polynomials(self, x: Tensor) -> Tensor:
        """Return the Legendre polynomials [degrees, N, training inputs] of the angles' cosines."""
        cosine = (x @ self.x.T).clamp(-1, 1)
        return torch.stack([torch.special.legendre_polynomial_p(cosine, degree) for degree in range(KERNEL_DEGREE + 1)])

    def covariance(self, legendre: Tensor) -> Tensor:
        """Return the kernel's matrix of such polynomials (the addition theorem)."""
        return torch.tensordot(self.kernel()[0] * self.kernel.counts, legendre, 1)

    def observed(self) -> Tensor:
        """Return the covariance [N, N] of the observations."""
        return self.covariance(self.legendre) + torch.diag((2 * self.log_noise).exp().expand(len(self.x)))

    def bound(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log marginal likelihood of the training observations, in nats."""
        return MultivariateNormal(torch.zeros_like(y), self.observed()).log_prob(y)

    def predict(self, x: Tensor) -> Normal:
        """Return the predicted distribution of observations [1, N] at x [N, 3]."""
        cross, root = self.covariance(self.polynomials(x)), torch.linalg.cholesky(self.observed())
        mean = cross @ torch.cholesky_solve(self.y[:, None], root)[:, 0]
        explained = torch.linalg.solve_triangular(root, cross.T, upper=False).square().sum(0)
        variance = self.kernel.log_variance.exp() - explained + (2 * self.log_noise).exp()
        return Normal(mean[None], variance[None].sqrt())


def fit(model: DeepGP | ExactGP, x: Tensor, y: Tensor, iterations: int, rate: float = 0.03) -> list[float]:
    """Maximise a model's bound by Adam on all observations at once, and return the bound of every step, in nats.

    Raises:
        TrainingError: the bound has no value.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    bounds: list[float] = []
    while len(bounds) < iterations:
        optimizer.zero_grad()
        try:
            bound = model.bound(x, y)
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            words = str(error).partition("\n")[0]
            raise TrainingError(f"the bound has no value at step {len(bounds) + 1}: {words}") from error
        (-bound / len(y)).backward()
        optimizer.step()
        bounds.append(bound.item())
    return bounds


@torch.no_grad()
def score(model: DeepGP | ExactGP, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the mean log-likelihood, in nats, and root mean square error of unseen observations y [N] at x [N, 3]."""
    components = model.predict(x)
    likelihood = components.log_prob(y).logsumexp(0) - math.log(components.mean.shape[0])
    return likelihood.mean().item(), (components.mean.mean(0) - y).square().mean().sqrt().item()
