"""Optimizers, parameter groups, and learning-rate schedules as pure step -> factor functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import nn

from reslightning.errors import UserError
from reslightning.models.normalization import normalisations
from reslightning.ranges import Range, check_names, check_values

Factor = Callable[[int], float]


@dataclass(frozen=True)
class Optim:
    """The optimizer. The defaults are the paper's (arXiv:1512.03385, Sec. 3.4 and 4.2).

    Attributes:
        name: sgd or adamw.
        lr: peak learning rate; the schedule multiplies it.
        momentum: SGD's momentum in [0, 1).
        nesterov: SGD with Nesterov's momentum.
        betas: AdamW's two decay rates.
        weight_decay: L2 penalty of SGD, decoupled decay of AdamW.
        decay_norm_and_bias: weight decay on norms and biases too, as in the paper.
        lr_batch: the batch size that lr is for: the peak is lr x data.batch_size / lr_batch, linear
            scaling, which large batches need a warm-up with (arXiv:1706.02677); none given means that
            lr is the peak.
        body_lr: rate of all but the final layer, as a fraction of the final layer's, for fine-tuning.
        norm_bias_lr: rate of batch normalisation's biases, as a factor of what it would be, 64 say, for short trainings
            (arXiv:2404.00498, Sec. 3.4). Their weight decay is divided by it, as in its code: a step takes as much off
            them as without.
    """

    name: OptimizerName = "sgd"
    lr: Annotated[float, Range("a positive number")] = 0.1
    momentum: Annotated[float, Range("a number in [0, 1)")] = 0.9
    nesterov: bool = False
    betas: Annotated[tuple[float, float], Range("two numbers in [0, 1)")] = (0.9, 0.999)
    weight_decay: Annotated[float, Range("0 or more")] = 1e-4
    decay_norm_and_bias: bool = True
    lr_batch: Annotated[int | None, Range("images, 1 or more")] = None
    body_lr: Annotated[float | None, Range("(0, 1]")] = None
    norm_bias_lr: Annotated[float | None, Range("a positive number")] = None

    def __post_init__(self) -> None:
        """Refuse values no optimizer takes."""
        check_values(Optim, vars(self), "model.optim")
        if self.nesterov and self.momentum == 0:
            raise UserError("model.optim.nesterov needs momentum: set model.optim.momentum above 0")

    def peak(self, batch_size: int) -> float:
        """Return the peak learning rate for batches of so many images."""
        return self.lr if self.lr_batch is None else self.lr * batch_size / self.lr_batch


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes, step by step, as a factor of ``optim.lr``.

    Attributes:
        name: step: times ``gamma`` at each milestone; linear: e_k = (1 - k/tau) e_0 + (k/tau) e_tau
            until iteration tau, constant after; cosine: half a cosine down to ``final``; one_cycle:
            linearly up from 1/25 until ``peak``, then linearly down to ``final``; constant.
        warmup: linear warm-up in epochs, multiplied onto any schedule.
        milestones: where "step" drops; none given means at half and three quarters of training.
        gamma: factor at each milestone.
        tau: where "linear" becomes constant; none given means the end of training.
        unit: unit of milestones and tau: epochs or iterations (optimizer steps).
        final: lowest rate of linear (e_tau), cosine and one_cycle, as a fraction of optim.lr.
        peak: fraction of training after which one_cycle reaches its peak.
    """

    name: ScheduleName = "step"
    warmup: Annotated[float, Range("epochs, 0 or more")] = 0.0
    milestones: Annotated[list[float] | None, Range("positive numbers in ascending order")] = None
    gamma: Annotated[float, Range("a factor in (0, 1]")] = 0.1
    tau: Annotated[float | None, Range("a positive number")] = None
    unit: Literal["epochs", "iterations"] = "epochs"
    final: Annotated[float, Range("a fraction in [0, 1]")] = 0.0
    peak: Annotated[float, Range("a fraction in (0, 1)")] = 0.25

    def __post_init__(self) -> None:
        """Refuse values no schedule can follow."""
        check_values(Schedule, vars(self), "model.schedule")


Group = TypeVar("Group", Optim, Schedule)


def options(kind: type[Group], given: Group | Mapping[str, Any]) -> Group:
    """Return a group of options, which may be given by their names.

    Raises:
        UserError: a name that is none of the group's, or a value that it does not take.
    """
    if isinstance(given, kind):
        return given
    check_names(kind, given, f"model.{kind.__name__.lower()}")  # type: ignore[arg-type]
    return kind(**given)  # type: ignore[arg-type]


def step_decay(milestones: list[float], gamma: float) -> Factor:
    """Return ``gamma`` to the number of milestones (iterations) reached."""
    return lambda k: float(gamma ** sum(k >= milestone for milestone in milestones))


def linear_decay(tau: float, final: float) -> Factor:
    """Return (1 - a) + a * final with a = min(k / tau, 1): linear until tau, then constant."""
    return lambda k: 1 - min(k / tau, 1.0) * (1 - final)


def cosine(total: int, final: float) -> Factor:
    """Return half a cosine from 1 down to ``final`` over ``total`` iterations (arXiv:1608.03983)."""
    return lambda k: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(k / total, 1.0)))


def one_cycle(total: int, peak: float, final: float, start: float = 1 / 25) -> Factor:
    """Return ``start`` rising linearly to 1 at ``peak * total``, then falling to ``final``."""
    top = peak * total

    def factor(k: int) -> float:
        if k < top:
            return start + (1 - start) * k / top
        return 1 - (1 - final) * min((k - top) / (total - top), 1.0)

    return factor


def warm_up(factor: Factor, iterations: float) -> Factor:
    """Return ``factor`` with its first iterations scaled by 1/n, 2/n, ..., 1 (arXiv:1706.02677)."""
    if iterations <= 0:
        return factor
    return lambda k: factor(k) * min((k + 1) / iterations, 1.0)


class Course(NamedTuple):
    """A row of the table: how its factor is made of schedule, iterations and the unit's iterations, its own options."""

    make: Callable[[Schedule, int, int], Factor]
    takes: frozenset[str]


SCHEDULES = {
    "step": Course(
        lambda schedule, total, unit: step_decay(
            [total / 2, total * 3 / 4] if schedule.milestones is None else [m * unit for m in schedule.milestones],
            schedule.gamma,
        ),
        takes=frozenset({"milestones", "gamma", "unit"}),
    ),
    "linear": Course(
        lambda schedule, total, unit: linear_decay(
            total if schedule.tau is None else schedule.tau * unit, schedule.final
        ),
        takes=frozenset({"tau", "unit", "final"}),
    ),
    "cosine": Course(lambda schedule, total, unit: cosine(total, schedule.final), takes=frozenset({"final"})),
    "one_cycle": Course(
        lambda schedule, total, unit: one_cycle(total, schedule.peak, schedule.final),
        takes=frozenset({"peak", "final"}),
    ),
    "constant": Course(lambda schedule, total, unit: lambda k: 1.0, takes=frozenset()),
}
ScheduleName: TypeAlias = Literal[tuple(SCHEDULES)]  # type: ignore[valid-type]  # what the parser allows


def make_factor(schedule: Schedule, steps_per_epoch: int, epochs: int) -> Factor:
    """Return the schedule as a function from iteration (0, 1, ...) to a factor of the peak rate.

    Args:
        schedule: which one.
        steps_per_epoch: optimizer steps in an epoch.
        epochs: length of training.
    """
    unit = steps_per_epoch if schedule.unit == "epochs" else 1
    factor = SCHEDULES[schedule.name].make(schedule, max(steps_per_epoch * epochs, 1), unit)
    return warm_up(factor, schedule.warmup * steps_per_epoch)


# Of the rate, for the scalars of Fixup, each of which moves whole maps (github.com/hongyi-zhang/Fixup, cifar_train.py).
SCALARS = 0.1


def parameter_groups(model: nn.Module, optim: Optim, lr: float) -> list[dict[str, Any]]:
    """Return the groups an optimizer takes: by weight decay, and by rate where the body has its own.

    Norms and biases are the parameters of fewer than two dimensions; the head is the final layer, fc. Fixup's scalars,
    in networks without batch normalisation, learn at a tenth of the rate, as its authors train them. Biases of batch
    normalisation that have a rate of their own are the group that says ``norm_biases``.
    """
    biases = {id(norm.bias) for norm in normalisations(model).values()} if optim.norm_bias_lr else set()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = optim.weight_decay if optim.decay_norm_and_bias or parameter.ndim > 1 else 0.0
            head = name.startswith("fc.")
            rate = lr if optim.body_lr is None or head else lr * optim.body_lr
            if parameter.numel() == 1 and not head:
                rate *= SCALARS
            if (own := id(parameter) in biases) and optim.norm_bias_lr:
                rate, decay = rate * optim.norm_bias_lr, decay / optim.norm_bias_lr
            groups.setdefault((rate, decay, own), []).append(parameter)
    # Weight decay first, as the order of what an optimizer keeps goes by it.
    ordered = sorted(groups, key=lambda group: (-group[0], -group[1]))
    return [
        {
            "params": groups[rate, decay, own],
            "lr": rate,
            "weight_decay": decay,
            **({"norm_biases": True} if own else {}),
        }
        for rate, decay, own in ordered
    ]


class Optimizer(NamedTuple):
    """A row of the table: how one is made (fused or not), the values it keeps for each weight, its own options."""

    make: Callable[[list[dict[str, Any]], Optim, bool | None], torch.optim.Optimizer]
    kept: int
    takes: frozenset[str]


OPTIMIZERS = {
    "sgd": Optimizer(
        lambda groups, optim, fused: torch.optim.SGD(
            groups, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused
        ),
        kept=1,
        takes=frozenset({"momentum", "nesterov"}),
    ),
    "adamw": Optimizer(
        lambda groups, optim, fused: torch.optim.AdamW(groups, betas=optim.betas, fused=fused),
        kept=2,
        takes=frozenset({"betas"}),
    ),
}
OptimizerName: TypeAlias = Literal[tuple(OPTIMIZERS)]  # type: ignore[valid-type]  # what the parser allows


def make_optimizer(model: nn.Module, optim: Optim, lr: float | None = None) -> torch.optim.Optimizer:
    """Return the optimizer over the model's parameters; ``lr`` is the peak, none given means optim.lr.

    On GPUs a step is one kernel for many weights. On CPUs that rounds otherwise, to gain half a millisecond a step.
    """
    groups = parameter_groups(model, optim, optim.lr if lr is None else lr)
    on_gpu = all(weight.device.type == "cuda" for group in groups for weight in group["params"])
    optimizer = OPTIMIZERS[optim.name].make(groups, optim, on_gpu or None)
    # It could undo a loss's scaling, too; Lightning would leave that to it, and measure and clip what is scaled.
    setattr(optimizer, "_step_supports_amp_scaling", False)  # noqa: B010 - torch's, and of fused ones alone
    optimizer.register_load_state_dict_pre_hook(_keep_fused)
    return optimizer


def _keep_fused(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state of an optimizer, with steps as this one's device takes them, not the one there."""
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    return {**state, "param_groups": [{**there, "fused": own["fused"]} for own, there in groups]}


def values(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the rate, momentum and weight decay that a step takes, of several groups the largest.

    Biases of batch normalisation that have a rate of their own are not looked at: theirs is a multiple.
    """
    groups = [group for group in optimizer.param_groups if not group.get("norm_biases")]
    return {
        "lr": max(float(group["lr"]) for group in groups),
        "momentum": max(group["momentum"] if "momentum" in group else group["betas"][0] for group in groups),
        "weight_decay": max(group["weight_decay"] for group in groups),
    }


def keep_values(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return another run's state of an optimizer with the rates, momentum and decay that this one has."""
    groups = zip(optimizer.param_groups, state["param_groups"], strict=True)
    return {**state, "param_groups": [{**own, "params": there["params"]} for own, there in groups]}


def check_state(model: nn.Module, optim: Optim, checkpoint: Mapping[str, Any], source: str) -> None:
    """Raise UserError where a checkpoint's moments are another optimizer's, or of other groups of weights."""
    (state,), made = checkpoint["optimizer_states"], make_optimizer(model, optim)
    weights = [weight for group in made.param_groups for weight in group["params"]]
    there, here = (
        f"{name} over {' + '.join(str(len(group['params'])) for group in groups)} parameters"
        for name, groups in (
            (checkpoint["hyper_parameters"]["optim"]["name"], state["param_groups"]),
            (optim.name, made.param_groups),
        )
    )
    fits = there == here and all(
        value.shape == weights[number].shape
        for number, kept in state["state"].items()
        for value in kept.values()
        if isinstance(value, torch.Tensor) and value.ndim  # AdamW counts its steps in one without dimensions
    )
    if not fits:
        raise UserError(
            f"{source} holds the state of {there}, which this command's {here} cannot take\nGive model.optim.name, "
            "decay_norm_and_bias, body_lr, norm_bias_lr and model.frozen_stages as they were there, or start from its "
            f"weights alone: --model.weights {source}"
        )
