"""Command lines that nobody wrote: drawn from the parsers' own options, each by its seed and number alone."""

import random
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

from reslightning.__main__ import COMMANDS, main
from reslightning.cli.declared import PACKAGE
from reslightning.cli.lightning_cli import CLI
from reslightning.cli.parser import CommandParser, options
from reslightning.data import registry
from reslightning.ranges import literals, parameters

SMALL = "--data tests.small.Originals --model.arch resnet8 --data.batch_size 256 --wandb.mode disabled"
# Behind everything else, so that what is trained or measured ends soon whatever is given.
SHORT = {
    "fit": "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1",
    "bench": "--rounds 1 --seconds 0.1 --steps 1",
    "submit": "--dry_run",  # a machine may have a Slurm
    "study": "--dry_run",
    "analyze": "--model.arch resnet8 --batch_size 4",
}
SUBJECT = {"analyze": ["gradients"]}  # words that stand in front of a command's options
TRAINER = ("fit", "validate", "test", "predict")
# How often a command is drawn beside once: a new one is, too.
USUAL = [*COMMANDS, *["fit"] * 17, *TRAINER, *["compare", "submit"] * 4, *("pack", "sync", "fetch", "doctor")]

NUMBERS = ("0", "1", "2", "3", "-1", "0.5", "1.5", "1e-3", "1e400", "nan", "-inf", "4294967296", "9223372036854775808")
WORDS = ("", "x", "null", "true", "false", "1:30", "010", "1_0", "[1, 2]", "[]", "{}", "{a: 1}")
ODD = (*WORDS, "{", "'", "a: b: c", "&a [*a]")
NAMES = ("ü", "\x1b[31mred", "a\nb", "%s", "$NOWHERE", "-", "!!python/name:os.system", "\U0001f600", "a" * 300)
SCENE = ("run", "run/config.yaml", "run/checkpoints/last.ckpt", "images", "images/train", "empty", "text.txt", "loop")
PLACES = (*SCENE, "nowhere", "nowhere/x", "text.txt/x", "/proc/nowhere", "~nosuchuser/x", "out", "out.csv", "a" * 300)
KEYS = ("top1", "arch", "model.optim.lr", "run", "nowhere", "=", "arch=resnet8", "top1<9", "seed_everything=0,1")
A_PLACE = re.compile(r"(dir|root|path|weights|output|embeddings|to|site|logs|plot|html|source|dest|runs|reference)$")
A_KEY = re.compile(r"(by|filter|sort|columns|grid|sbatch)$")
DAMAGES = ("cut", "empty", "garbage", "gone", "folder", "loop", "fifo", "value")
DAMAGED = ("run/config.yaml", "run/summary.json", "run/metrics.csv", "run/checkpoints/last.ckpt", "run/checkpoints")


@dataclass
class Case:
    """A command line, with what it finds.

    Attributes:
        words: the command line.
        given: the options and values that were drawn, in the order in which they count.
        environ: variables of the environment.
        files: configs, by name.
        damage: what happened to which file, and a number that says how.
    """

    words: list[str]
    given: list[tuple[str, str]] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    damage: tuple[str, str, int] | None = None

    def __str__(self) -> str:
        """What shows it in a shell."""
        lines = [f"printf %s {shlex.quote(content)} > {name}" for name, content in self.files.items()]
        lines += [f"# damaged: {self.damage}"] if self.damage else []
        words = [*(f"{name}={shlex.quote(value)}" for name, value in self.environ.items()), "reslightning"]
        return "\n".join([*lines, " ".join(words) + " " + shlex.join(self.words)])


class FoundError(Exception):
    """The parser that a command would have parsed with."""


@cache
def parser(command: str) -> Any:
    """Return a command's own parser, before it has read anything."""

    def give(owner: Any, *_: Any, **__: Any) -> None:
        raise FoundError(owner._subcommand_parsers[command] if isinstance(owner, CLI) else owner)

    with patch.object(CommandParser, "parse_args", give), patch.object(CLI, "parse_arguments", give):
        try:
            main([command, *(["--", "fit"] if command == "submit" else SUBJECT.get(command, []))])
        except FoundError as found:
            return found.args[0]
    raise AssertionError(f"{command} has no parser")


@cache
def typed(command: str, data: str = "") -> dict[str, Any]:
    """Return the types of a command's options, with those of a data set."""
    found = {name: kind for name, kind in options(parser(command)).items() if name not in ("config", "print_config")}
    return found | ({f"data.{name}": kind for name, kind in parameters(registry.load(data)).items()} if data else {})


@cache
def variables() -> list[str]:
    """Return the names of the environment variables that the package reads."""
    text = "".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
    return sorted(set(re.findall(r'"((?:SLURM|RESLIGHTNING|WANDB|MASTER|LOCAL|NODE|WORLD)_[A-Z_]*[A-Z])"', text)))


def value(draw: random.Random, name: str, kind: Any) -> str:
    """Return a value for an option: mostly of its type, perhaps out of its range, sometimes anything."""
    if draw.random() < 0.12:
        return draw.choice((*NUMBERS, *ODD, *NAMES, *PLACES))
    if names := literals(kind):
        chosen = draw.choice(names)
        return chosen if draw.random() < 0.8 else chosen[:-1]
    if A_PLACE.search(name):
        return draw.choice(PLACES)
    if A_KEY.search(name):
        return ",".join(draw.sample(KEYS, draw.randint(1, 2)))
    said = str(kind)
    if "int" in said.lower() or "float" in said.lower():
        return f"[{draw.choice(NUMBERS)}, {draw.choice(NUMBERS)}]" if "[float" in said else draw.choice(NUMBERS)
    return draw.choice(("true", "false", "null") if "bool" in said else ("x", "2", *NAMES))


def drawn(draw: random.Random, types: dict[str, Any]) -> list[tuple[str, str]]:
    """Return some options with values; few have another's or a mistyped name."""
    names = draw.sample(list(types), min(draw.choice((0, 1, 1, 1, 2, 3)), len(types)))
    found = [(name, value(draw, name, types[name])) for name in names]
    found = [(name, "1" if name.endswith("devices") and text in ("2", "3") else text) for name, text in found]
    if found and draw.random() < 0.07:
        name, text = found.pop()
        at = draw.randrange(len(name))
        found.append((name[:at] + name[at + 1 :], text))
    return found + (found[:1] if draw.random() < 0.05 else [])


def flag(draw: random.Random, name: str, text: str) -> list[str]:
    """Return an option in one of the forms in which it may be given."""
    name = name.replace("_", "-") if draw.random() < 0.2 else name
    return [f"--{name}={text}"] if draw.random() < 0.5 or text.startswith("-") else [f"--{name}", text]


def config(draw: random.Random, given: list[tuple[str, str]]) -> str:
    """Return a config's text: options nested or with dots, written down as they are."""
    lines: list[str] = []
    open_groups: list[str] = []
    for name, text in sorted(given):
        *groups, last = [name] if draw.random() < 0.4 else name.split(".")
        shared = 0
        while groups and shared < min(len(groups), len(open_groups)) and groups[shared] == open_groups[shared]:
            shared += 1
        lines += [f"{'  ' * depth}{groups[depth]}:" for depth in range(shared, len(groups))]
        lines.append(f"{'  ' * len(groups)}{last}: {text}")
        open_groups = groups
    return "\n".join(lines) + "\n"


def fixed(flags: str) -> list[tuple[str, str]]:
    """Return the options and values that a line of flags gives."""
    return [(name.removeprefix("--"), text) for name, text in zip(flags.split()[::2], flags.split()[1::2], strict=True)]


def trainer(draw: random.Random, command: str) -> tuple[list[str], list[tuple[str, str]], dict[str, str]]:
    """Return words, options and configs of fit, validate, test or predict."""
    data = draw.choice(["tests.small.Originals"] * 6 + list(registry.DATA_SETS))
    words = shlex.split(SMALL.replace("tests.small.Originals", data))
    given = drawn(draw, typed(command, data))
    files = {}
    if command != "fit":
        given = draw.choice(([("run_dir", "run")], [("ckpt_path", "run/checkpoints/last.ckpt")], [])) + given
    flags = given
    if given and draw.random() < 0.4:
        count = draw.randint(1, len(given))
        inside, flags = given[:count], given[count:]
        files["mine.yaml"] = config(draw, inside)
        form = draw.choice(("-c FILE", "-cFILE", "-c=FILE", "--config FILE", "--config=FILE"))
        words += form.replace("FILE", "mine.yaml").split()
        given = [*inside, *(pair for pair in fixed(SMALL) if pair[0] in dict(inside)), *flags]
    if draw.random() < 0.1:
        given = [*given, ("config", draw.choice(("cifar10", "overlays/fast", "overlays/finetune", *PLACES)))]
        words += ["-c", given[-1][1]]
    for name, text in flags:
        words += flag(draw, name, text)
    if draw.random() < 0.5:
        words.append("--print_config")
    elif command == "fit":
        given = [*given, *(pair for pair in fixed(SHORT["fit"]) if pair[0] in dict(given))]
        words += shlex.split(SHORT["fit"]) + (["--trainer.fast_dev_run", "true"] if draw.random() < 0.4 else [])
    return words, given, files


def other(draw: random.Random, command: str) -> tuple[list[str], list[tuple[str, str]], dict[str, str]]:
    """Return words and options of a command with a parser of its own."""
    words = list(SUBJECT.get(command, []))
    files: dict[str, str] = {}
    types = typed(command)
    for action in parser(command)._actions:
        if not action.option_strings and action.dest != "help":
            choices = action.choices or {"compare": SCENE, "models": ("resnet20", "plain18", *ODD)}.get(command, PLACES)
            most = 2 if action.nargs in ("+", "*") else 1
            words += [draw.choice(list(choices)) for _ in range(draw.randint(action.nargs != "*", most))]
    flags = [(name, text) for name, text in drawn(draw, types) if command != "submit" or name != "local"]
    given = [("", word) for word in words] + flags
    for name, text in flags:
        words += [f"--{name}"] if is_flag(command, name) else flag(draw, name, text)
    words += shlex.split(SHORT.get(command, ""))
    if command == "submit":
        after, more, files = trainer(draw, "fit")
        words, given = [*words, "--", "fit", *(word for word in after if word != "--print_config")], given + more
    return words, given, files


def is_flag(command: str, name: str) -> bool:
    """Whether an option takes no value."""
    return any(f"--{name}" in action.option_strings and action.nargs == 0 for action in parser(command)._actions)


def case(seed: int, number: int) -> Case:
    """Return a case, the same for the same seed and number."""
    draw = random.Random(f"{seed} {number}")
    command = draw.choice(USUAL)
    make: Callable[..., Any] = trainer if command in TRAINER else other
    words, given, files = make(draw, command)
    made = Case([command, *words], given, files=files)
    if draw.random() < 0.03:
        made.words[0] = command[1:]
    if draw.random() < 0.15:
        name = draw.choice(variables())
        made.environ[name] = value(draw, name.lower(), draw.choice((int, str))) or "x"
    if "run" in " ".join(words) and draw.random() < 0.5:
        made.damage = (draw.choice(DAMAGES), draw.choice(DAMAGED), draw.randrange(10**6))
    return made
