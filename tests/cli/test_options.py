"""fit's options, read from the sources, are the parser's own."""

import pytest

from reslightning.cli import explain
from reslightning.cli import lightning_cli as cli
from reslightning.cli.options import check_options, known_options, refuse_secrets
from reslightning.errors import UserError


class Options(cli.CLI):
    def before_instantiate_classes(self):
        self.types = set(explain._option_types(self._subcommand_parsers["fit"], cli.DATA_SETS))

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


def test_they_are_the_parser_s():
    groups = {"model", "trainer", "wandb", "print_config"}
    real = {name for name in Options(["fit"]).types if not name.endswith("+")} - groups
    assert known_options() - {"data.class_path"} == real


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
