"""fit's options, read from the sources, are the parser's own; what is not the package's is found by its class path."""

import re
from typing import Annotated, Any, get_args

import pytest
from lightning.pytorch import Trainer

from reslightning.cli.declared import TRAINING, declared
from reslightning.cli.options import check_options, known_options, refuse_secrets
from reslightning.data.registry import DATA_SETS, load
from reslightning.errors import UserError
from reslightning.ranges import Range, allowed, parameters
from reslightning.train.classifier import ImageClassifier
from reslightning.train.optim import Optim, Schedule


def shown(cli, line: str) -> set[str]:
    """Return the options that a help text lists, each on a line of its own."""
    return set(re.findall(r"^ +(?:-\w, )?(?:-\w \w+, )?--([\w.]+)(?= |$|,)", cli(line).out, re.MULTILINE))


def test_they_are_the_help_s(cli):
    helps = shown(cli, "fit --help").union(*(shown(cli, f"fit --data.help {name}") for name in DATA_SETS))
    groups = {"model", "trainer", "wandb", "model.optim", "model.schedule", "print_config"}
    linked = {"data.seed"}  # to seed_everything
    listed = {name for name in helps if not name.endswith("help")}
    assert known_options().keys() - {"data.class_path"} - groups == listed - groups - linked


def said(kind) -> tuple[str, list[str]]:
    return allowed(kind), [span.words for span in spans(kind)]


def spans(kind):
    yield from (extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Range))
    for part in get_args(kind):
        yield from spans(part)


def test_their_types_are_the_constructors():
    groups = {"model": [ImageClassifier], "model.optim": [Optim], "model.schedule": [Schedule], "trainer": [Trainer]}
    groups["data"] = [load(name) for name in DATA_SETS]
    types = declared()
    for group, owners in groups.items():
        for owner in owners:
            made = parameters(owner, ranges=True)
            for name, kind in made.items():
                if types.get(f"{group}.{name}", Any) is not Any:
                    wanted = Annotated[kind, TRAINING[name]] if group == "trainer" and name in TRAINING else kind
                    assert said(types[f"{group}.{name}"]) == said(wanted), name
    known = [name for name, kind in types.items() if kind is not Any]
    assert {"model.shortcut", "model.optim.name", "data.padding_mode", "data.train_size"} <= set(known)
    assert len(known) > 0.8 * len(types)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fit --model.arhc resnet20", "unknown option 'model.arhc'; did you mean 'model.arch'"),
        ("fit --data.bach_size=3", "did you mean 'data.batch_size'"),
        ("fit -c nowhere", "no config 'nowhere'"),
        ("fit -c mine.yaml", "unknown option 'trainer.max_epoch' in mine.yaml; did you mean 'trainer.max_epochs'"),
    ],
)
def test_a_typo(tmp_path, line, message):
    (tmp_path / "mine.yaml").write_text(
        "data: {class_path: Digits, init_args: {batch_size: 4}}\ntrainer: {max_epoch: 3}\n"
    )
    with pytest.raises(UserError, match=message):
        check_options(line.split())


def test_what_is_allowed():
    flags = "--data.init_args.batch_size 3 --wandb.tags+ a --model.optim.lr=1"
    check_options(["fit", "-c", "cifar10", "-c", "overlays/fast", *flags.split()])
    check_options(["fit", "--trainer.callbacks+=Mine", "--trainer.callbacks.file", "x", "--trainer.logger", "false"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "x") for key in ("api_key", "a.b.token", "authtoken", "aws_secret_access_key", "Authorization", "pwd")),
        ("url", "https://ghp_x@127.0.0.1/r"),
        ("url", "https://u:p/q@127.0.0.1"),
        ("urls", ["https://127.0.0.1", "https://127.0.0.1/?token=x"]),
        ("trainer", {"logger": {"init_args": {"headers": {"authorization": "x"}}}}),
    ],
)
def test_credentials_are_refused(key, value):
    with pytest.raises(UserError, match="is given a credential"):
        refuse_secrets({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("api_key", None),
        ("token", ""),
        ("tokens", 5),
        ("url", "https://127.0.0.1/a@b"),
        ("notes", "me@127.0.0.1"),
        ("key", 1),
    ],
)
def test_other_options_are_not(key, value):
    refuse_secrets({key: value})


MINE = """
from typing import Any, Literal
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from reslightning.data import Digits

class Count(Digits):
    def __init__(self, count: int = 3, mode: Literal["odd", "even"] = "odd", **options: Any) -> None:
        super().__init__(**options)

class Beep(Callback):
    def __init__(self, every: int = 1) -> None:
        self.every = every

class Log(CSVLogger):
    def __init__(self, folder: str = "logs") -> None:
        super().__init__(folder)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's, in the working folder; returns its name."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MINE)
    (tmp_path / "mine.yaml").write_text(f"data: {{class_path: {name}.Count, init_args: {{count: 4}}}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    "options",
    [
        "--data {mine}.Count --data.count 3 --data.crop_padding 2",
        "--data.class_path={mine}.Count --data.init_args.mode=even",
        "-c mine.yaml --data.mode even",
        "--trainer.callbacks+={mine}.Beep --trainer.callbacks.every 3",
        "--trainer.logger {mine}.Log --trainer.logger.folder x",
    ],
)
def test_classes_from_outside_work_by_class_path_in_submit_as_in_fit(cli, mine, options):
    options = options.format(mine=mine)
    queued = cli(f"submit --dry-run -- fit {options}")
    assert queued.status == 0, queued.err
    assert "srun" in queued.out
    printed = cli(f"fit {options} --print_config")
    assert printed.status == 0, printed.err
    assert f"class_path: {mine}." in printed.out


@pytest.mark.parametrize("command", ["fit", "submit --dry-run -- fit"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--data {mine}.Count --data.cuont 3", "unknown option 'data.cuont'; did you mean 'data.count'"),
        ("-c mine.yaml --data.mod even", "unknown option 'data.mod'; did you mean 'data.mode'"),
        ("--data {mine}.Conut --data.count 3", "unknown data set '{mine}.Conut'"),
        ("--data nowhere.Count --data.count 3", "unknown data set 'nowhere.Count'"),
    ],
)
def test_a_typo_in_what_is_from_outside(cli, mine, command, options, said):
    result = cli(f"{command} {options.format(mine=mine)}")
    assert result.status == 2
    assert said.format(mine=mine) in result.err


def test_a_value_that_what_is_from_outside_does_not_take(cli, mine):
    result = cli(f"fit --data {mine}.Count --data.mode eve")
    assert "data.mode=eve is not allowed; did you mean 'even'?\nallowed: odd, even" in result.err
