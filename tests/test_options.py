"""fit's options, read from the sources, are the parser's own."""

import pytest

from reslightning import cli, explain
from reslightning.errors import UserError
from reslightning.options import check_options, known_options


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
