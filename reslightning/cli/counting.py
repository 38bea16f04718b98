"""What cannot count, or would mean another training than it says, is refused before anything is built."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reslightning.cli.configs import GROUPS
from reslightning.cli.declared import TRAINING
from reslightning.cli.given import Given
from reslightning.cli.options import LINKED, OPEN
from reslightning.data import registry
from reslightning.errors import UserError
from reslightning.evaluation.protocols import choose
from reslightning.models.architectures import Architecture, check_trainable, get_architecture
from reslightning.models.borrowed import Borrowed
from reslightning.ranges import SEED, Range, check_value, parameters
from reslightning.run import layout
from reslightning.train.optim import OPTIMIZERS, SCHEDULES, Course, Optim, Optimizer, Schedule

# Lightning ends or validates within an epoch with these, and a run could not go on exactly.
NOT_SUPPORTED = (
    ("max_steps", ("-1",), "lengths are in epochs, trainer.max_epochs"),
    ("min_steps", ("None",), "lengths are in epochs, trainer.min_epochs"),
    (
        "max_time",
        ("None",),
        "lengths are in epochs, trainer.max_epochs; what ends a run after a time counts to what it is: "
        "--trainer.callbacks+=Timer --trainer.callbacks.duration DD:HH:MM:SS",
    ),
    ("val_check_interval", ("None", "1.0"), "validation comes behind whole epochs, trainer.check_val_every_n_epoch"),
)
IMAGES = Range("training images, 1 or more")
BATCHES = Range("a positive number of batches, or a fraction of them")
# Which batches a command may be limited in, but not do without.
LIMITS = {
    "fit": ("limit_train_batches", "limit_val_batches"),
    "validate": ("limit_val_batches",),
    "test": ("limit_test_batches",),
    "predict": ("limit_predict_batches",),
}
ONLY = {  # the package's own options that some commands have
    "output": ("predict",),
    "fresh": ("fit",),
    "protocol": ("validate", "test"),
    "average": ("validate", "test"),
    "save": ("validate", "test"),
    "recalibrate": ("validate", "test"),
}
# Options that a network of torchvision's does not have, and what stands for none.
NOT_BORROWED = {
    **dict.fromkeys(("shortcut", "version", "norm", "norm_momentum", "frozen_stages")),
    **dict.fromkeys(("zero_init_residual", "activation_checkpointing"), False),
}
NEEDED = ("max_epochs", "check_val_every_n_epoch", "overfit_batches")


# The choices of a group, each with the options that it alone looks at.
TABLES: dict[str, Mapping[str, Course | Optimizer]] = {"optim": OPTIMIZERS, "schedule": SCHEDULES}


def refuse_unread(given: Sequence[Given], types: Mapping[str, Any]) -> None:
    """Raise UserError for what the parser would wait for, replace or take whatever the type, before it does.

    Args:
        given: the options as they were given.
        types: every option's.
    """
    for key, value, _ in given:
        if key in LINKED and value is not None:
            raise UserError(f"{key}={value} would not count: {LINKED[key]}")
        if value is None:
            check_value(key, types.get(key, Any), None, "null")
        if key in (*GROUPS, *OPEN) and isinstance(value, str) and _never_ends(value):
            raise UserError(f"{key}={value} is a device or a pipe, which may never end\nGive a file.")


def _never_ends(name: str) -> bool:
    with contextlib.suppress(OSError, ValueError):  # no name that a file can have
        return Path(name).exists() and not (Path(name).is_file() or Path(name).is_dir())
    return False


def refuse_dropped(given: Sequence[Given]) -> None:
    """Raise UserError for an option that the parser would forget: a data set named behind it does not have it.

    Nothing is said of what the last data set does not have either, which a config for another one may hold.
    """
    takes, held, dropped = set[str](), dict[str, Given](), dict[str, Given]()
    for option in given:
        name = option.key.removeprefix("data.")
        if option.key in ("data", "data.class_path") and option.value:
            takes = set(parameters(registry.load(str(option.value))))
            dropped |= {name: held.pop(name) for name in held.keys() - takes}
        elif name != option.key:
            held[name] = option
            dropped.pop(name, None)
    for name in sorted(dropped.keys() & takes):
        _, value, config = dropped[name]
        raise UserError(
            f"data.{name}={value} in {config} would not count: behind it stands a data set without it, and then again "
            f"one that has it\nGive it as a flag: --data.{name} {value}"
        )


def refuse(command: str, given: Sequence[Given], options: Any) -> None:
    """Raise UserError for what is given and would not count.

    Args:
        command: fit, validate, test or predict.
        given: the options as they were given.
        options: what the parser makes of them.
    """
    for option in given:
        _refuse_disguise(option, options)
    _refuse_trainer(command, options)
    if options.seed_everything not in SEED:
        raise UserError(f"seed_everything={options.seed_everything} is out of range; allowed: {SEED.words}")
    if not isinstance(options.fresh, bool):
        raise UserError(f"fresh={options.fresh} is not allowed\nallowed: true or false")
    for name, only in ONLY.items():
        if options.get(name) and command not in only:
            raise UserError(f"--{name} means nothing to {command}; it is an option of {' and '.join(only)}")
    if options.recalibrate is not None and options.recalibrate not in IMAGES:
        raise UserError(f"recalibrate={options.recalibrate} is out of range; allowed: {IMAGES.words}")
    for protocol in choose(options.protocol, options.average):
        protocol.check_network(options.model.arch)
    _refuse_unused(given, options)
    if command == "fit":
        check_trainable(options.model.arch)
        _refuse_size(options)
    if command == "fit" and options.model.new_head and options.model.weights is None:
        raise UserError(
            "model.new_head needs model.weights to take the rest from: --model.weights torchvision:IMAGENET1K_V2, or a "
            "file or a run\nTo train from scratch instead: fit --data ImageFolder --data.root DIR --model.arch resnet18"
        )


def _refuse_size(options: Any) -> None:
    """Refuse small images that a network's stride does not divide, to begin with."""
    data, network = registry.load(options.data.class_path), get_architecture(options.model.arch)
    first = (options.data.get("init_args") or {}).get("first_size")
    if data.reads_files or not first or not isinstance(network, Architecture) or first % network.stride == 0:
        return
    sizes = ", ".join(map(str, range(network.stride, data.image_size, network.stride)))
    raise UserError(
        f"data.first_size={first} is no multiple of {network.stride}, the stride of {options.model.arch}\nallowed: "
        + (sizes or f"none, of images of {data.image_size} pixels; leave out data.first_size and data.grow_epochs")
    )


def leave_out(given: Sequence[Given], options: Any) -> None:
    """Leave out what configs say of other networks, and one of torchvision's has not: a flag stays, and is refused."""
    flags = {option.key for option in given if option.config is None}
    if isinstance(get_architecture(options.model.arch), Borrowed):
        for name, nothing in NOT_BORROWED.items():
            if f"model.{name}" not in flags:
                options.model[name] = nothing


def _refuse_disguise(option: Given, options: Any) -> None:
    key, value, _ = option
    if (value == "" and not key.startswith("wandb.")) or (value == "-" and key in OPEN):
        raise UserError(f"{key} is empty, a variable that is not set perhaps\nGive it, or leave it out.")
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+(:\d+)+(\.\d*)?|0\d[\d_]*)", value):
        meant = options.get(re.sub(r"^data\.", "data.init_args.", key))
        if isinstance(meant, int | float):
            raise UserError(f"{key}={value} is no number; it would be read as {meant}\nWrite out what is meant.")


def _refuse_trainer(command: str, options: Any) -> None:
    trainer = options.trainer
    for name, nothing, instead in NOT_SUPPORTED:
        if str(trainer[name]) not in nothing:
            raise UserError(f"trainer.{name} is not supported: {instead}\ngiven: {trainer[name]}")
    for name in LIMITS[command]:
        if trainer[name] is not None and trainer[name] not in BATCHES:
            raise UserError(f"trainer.{name}={trainer[name]} leaves nothing; allowed: {BATCHES.words}")
    if command != "fit":
        return
    for name, allowed in TRAINING.items():
        value = trainer[name]
        if name in NEEDED if value is None else value not in allowed:
            given = "null" if value is None else value
            raise UserError(f"trainer.{name}={given} is out of range; allowed: {allowed.words}")
    if (trainer.min_epochs or 0) > trainer.max_epochs:
        raise UserError(f"trainer.min_epochs={trainer.min_epochs} is more than trainer.max_epochs={trainer.max_epochs}")


def _refuse_unused(given: Sequence[Given], options: Any) -> None:
    """Refuse what the chosen data set, schedule or optimizer does not look at."""
    data = registry.load(options.data.class_path)
    for key, value, config in given:
        name = key.removeprefix("data.")
        if key != name and name in data.unused and value not in (None, False, "false", "null") and not _of_run(config):
            others = [other for other in registry.DATA_SETS if name not in registry.load(other).unused]
            raise UserError(
                f"{key}={value} is nothing to {data.__name__}, which come with the package, and would be trained on "
                f"instead\nSay which data set is meant, --data {', '.join(others)}, or leave {key} out."
            )
        if (key, str(value).lower()) == ("trainer.enable_checkpointing", "false") and not _of_run(config):
            raise UserError(
                "trainer.enable_checkpointing=false would not count: a run goes on from its checkpoints\nLeave it out; "
                "--trainer.fast_dev_run 1 tries a training and keeps nothing."
            )
    model = options.model
    Optim(**model.optim.as_dict()), Schedule(**model.schedule.as_dict())  # a value out of range is the first mistake
    for group, chosen in (("optim", model.optim.name), ("schedule", model.schedule.name)):
        taken = {name: row.takes for name, row in TABLES[group].items()}
        ignored = frozenset().union(*taken.values()) - taken[chosen]
        for key, value, config in given:
            if config is None and key in {f"model.{group}.{name}" for name in ignored}:
                takes = [name for name, names in taken.items() if key.rpartition(".")[2] in names]
                raise UserError(
                    f"{key}={value} is nothing to model.{group}.name={chosen}; leave it out, or choose "
                    f"{' or '.join(takes)}"
                )


def _of_run(config: Path | None) -> bool:
    """Whether a config is a run's own, which goes on as it was begun."""
    return config is not None and config.name == layout.CONFIG and (config.parent / layout.SUMMARY).is_file()
