"""Imports point down only, and what answers without torch never imports it."""

import ast
import itertools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reslightning"
# Each may import those before it; modules of one row do not import each other.
LAYERS = [
    ["errors", "files", "identity"],
    ["slurm"],
    ["lock", "provenance"],
    ["models.architectures"],
    ["runs", "reference", "configs"],
    ["options", "submission", "columns"],
    ["comparison"],
    ["tables", "figures", "wandb_runs"],
    ["report"],
    ["augment", "policy", "optim", "progress", "models", "tracking", "explain"],
    ["data.download", "data.staging", "data.labels", "data.decode"],
    ["data.sampler", "data.indexing"],
    ["data"],
    ["classifier"],
    ["callbacks", "messages", "measure", "findings"],
    ["evaluation", "training"],
    ["cli"],
    ["commands"],
    ["__main__"],
]
WITHOUT_TORCH = [
    "lock",
    "files",
    "identity",
    "errors",
    "runs",
    "reference",
    "configs",
    "models.architectures",
    "explain",
    "slurm",
    "provenance",
    "options",
    "columns",
    "comparison",
    "tables",
    "figures",
    "report",
    "wandb_runs",
    "commands.compare",
    "commands.sync",
    "submission",
    "data.staging",
    "commands.models",
    "commands.submit",
    "commands.doctor",
    "__main__",
]
HEAVY = {"torch", "torchvision", "lightning", "wandb", "numpy"}


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


def layer(name: str) -> tuple[int, str]:
    rows = itertools.chain.from_iterable(LAYERS)
    best = max((row for row in rows if name == row or name.startswith(row + ".")), key=len)
    return next(i for i, rows in enumerate(LAYERS) if best in rows), best


@pytest.mark.parametrize(("name", "path"), [m for m in modules() if m[0] != "__init__"], ids=lambda v: str(v)[-30:])
def test_imports_point_down(name, path):
    known = {module for module, _ in modules()} - {"__init__"}
    level, row = layer(name)
    for imported in imports(path):
        target = imported.removeprefix("reslightning.")
        if imported.startswith("reslightning.") and target in known:
            below, other = layer(target)
            assert below < level or other == row, f"{name} imports {target}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_no_torch(name):
    path = dict(modules())[name]
    assert not {module.partition(".")[0] for module in imports(path, top_level=True)} & HEAVY


@pytest.mark.parametrize(("name", "path"), [m for m in modules() if m[0][:6] == "models"], ids=lambda v: str(v)[-30:])
def test_models_need_torch_alone(name, path):
    found = {module.partition(".")[0] for module in imports(path, top_level=True)}
    assert not found & (HEAVY - {"torch"})


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda v: str(v)[-30:])
def test_private_attributes_of_lightning_stay_in_one_module(name, path):
    if name == "progress":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value
            while isinstance(owner, ast.Attribute):
                owner = owner.value
            assert not (isinstance(node.value, ast.Attribute) and node.value.attr == "trainer"), ast.unparse(node)
            assert not (isinstance(owner, ast.Name) and owner.id == "trainer"), ast.unparse(node)
