"""The house: which wing may import which, what answers without torch, and where others' private names may be used."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reslightning"
GROUND = {"errors", "files", "ranges", "strict_yaml"}
DOORS = {"__main__", "slurm", "submission"}  # what is started by name from outside: they may open any wing
# What a wing may import besides itself and the ground. An arrow points down: what it names stands above it here.
ARROWS = {
    "models": set(),
    "cluster": set(),
    "data": {"cluster"},
    "run": {"cluster"},
    "track": {"cluster", "run"},
    "compare": {"models", "run", "track"},
    "train": {"models", "cluster", "data", "run", "track"},
    "evaluation": {"models", "cluster", "data", "run", "track", "train"},
    "analysis": {"models", "cluster", "data", "run", "track", "compare", "train"},
    "cli": {"models", "cluster", "data", "run", "track", "train", "evaluation", "analysis"},
    "commands": {"models", "cluster", "data", "run", "track", "compare", "train", "evaluation", "analysis", "cli"},
}
WITHOUT_TORCH = {
    *("errors", "files", "ranges", "strict_yaml", "__main__", "slurm", "submission", "cluster", "run", "compare"),
    *("models.architectures", "models.published", "track.wandb_runs", "track.wandb_settings", "data.registry"),
    *("cli.choice", "cli.configs", "cli.declared", "cli.explain", "cli.given", "cli.options", "cli.parser"),
    "cli.showing",
    *("commands.compare", "commands.models", "commands.submit", "commands.submission", "commands.sync"),
    *(
        "commands.doctor",
        "commands.fetch",
        "commands.ensemble",
        "commands.average",
        "commands.predict",
        "commands.study",
    ),
    *("commands.export", "evaluation.formats"),
    *("analysis.findings", "analysis.deep_gp", "analysis.deep_gp_findings", "analysis.deep_gp_figures"),
    "analysis.gradient_findings",
    *("commands.analyze", "commands.analyze_gradients", "commands.analyze_deep_gp", "analysis.gradient_figures"),
    *("commands.analyze_responses", "analysis.response_figures", "commands.analyze_lesions", "analysis.lesion_figures"),
    *("commands.train", "commands.bench", "train.hardware", "train.memory"),
}
HEAVY = {"torch", "torchvision", "lightning", "wandb", "numpy"}
# Whose private attributes may be touched in which module alone: Lightning's, jsonargparse's and submitit's.
PRIVATE = {
    "trainer": "data.progress",
    **dict.fromkeys(("parser", "action"), "cli.parser"),
    **dict.fromkeys(("submitit", "submitit_slurm"), "commands.submission"),
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


EVERY = [module for module in modules() if module[0] != "__init__"]
every_module = pytest.mark.parametrize(("name", "path"), EVERY, ids=[name for name, _ in EVERY])


def test_arrows_point_down():
    above = list(ARROWS)
    for wing, below in ARROWS.items():
        assert below <= set(above[: above.index(wing)]), f"{wing} may import only wings above it in ARROWS"


@every_module
def test_imports(name, path):
    wing = name.partition(".")[0]
    assert wing in GROUND | DOORS | set(ARROWS), (
        f"{path.name} is in no wing: put it into the folder it belongs to (README, Where things are); a new wing gets "
        "a row in ARROWS of this test, which names the wings that it may import"
    )
    allowed = {wing} | GROUND | ARROWS.get(wing, set()) | (set(ARROWS) if wing in DOORS else set())
    if wing in GROUND:
        allowed = GROUND
    for imported in imports(path):
        package, _, rest = imported.partition(".")
        target = rest.partition(".")[0]
        if package == "reslightning" and target and target != "__version__":
            assert target in allowed, (
                f"{name} imports {imported}, but {wing} may import only {', '.join(sorted(allowed))}"
            )


def test_no_cycles():
    names = {name for name, _ in modules()}
    arrows = {
        name: {target for found in imports(path, top_level=True) if (target := found.partition(".")[2]) in names}
        for name, path in EVERY
    }
    done: set[str] = set()
    while open_ := {name for name in arrows if name not in done and arrows[name] - {name} <= done | {"__init__"}}:
        done |= open_
    assert done == set(arrows), f"these import each other: {', '.join(sorted(set(arrows) - done))}"


@every_module
def test_no_torch(name, path):
    if name in WITHOUT_TORCH or name.partition(".")[0] in WITHOUT_TORCH:
        assert not {module.partition(".")[0] for module in imports(path, top_level=True)} & HEAVY


@every_module
def test_models_need_torch_alone(name, path):
    if name.partition(".")[0] == "models":
        found = {module.partition(".")[0] for module in imports(path, top_level=True)}
        assert not found & (HEAVY - {"torch"})


@every_module
def test_others_private_attributes_stay_in_one_module(name, path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value).split(".")
            for whose, home in PRIVATE.items():
                assert name == home or whose not in owner, (
                    f"{ast.unparse(node)}: {whose}'s private names belong in {home}"
                )


def test_the_top_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@every_module
def test_functions_are_short(name, path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 45, f"{name}.{node.name} has {length} lines; allowed: 45"
