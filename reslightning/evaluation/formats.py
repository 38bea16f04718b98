"""The formats that a network is exported in, a row each; without torch."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from reslightning.errors import UserError, near_misses
from reslightning.models.architectures import canonical
from reslightning.models.borrowed import BORROWED

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

Facts = Mapping[str, Any]  # what safetensors' metadata says, see ``write_safetensors``
Network = Mapping[str, Any]  # of the facts hyper_parameters: arch, num_classes, shortcut and version
INPUT = "images"
OPTIONS = ("num_classes", "shortcut", "version", "norm")  # of a network, besides its name


class Format(NamedTuple):
    """A row of the table.

    Attributes:
        file: what its file is called.
        write: writes a network in evaluation mode, of which the facts are; the size is of an image, in pixels.
        read: returns what maps images [B, 3, H, W] to the written file's logits [B, num_classes].
        lines: the three lines of Python that do so for others, as ``network``.
        graph: whether it holds a graph, which may normalise and end in a softmax, and not parameters alone.
        needs: packages of the extra ``export``.
    """

    file: str
    write: Callable[[nn.Module, Facts, int, BinaryIO], object]
    read: Callable[[Path, Facts], Callable[[Tensor], Tensor]]
    lines: Callable[[Network], str]
    graph: bool = False
    needs: tuple[str, ...] = ()


def chosen(text: str) -> list[str]:
    """Return the names of formats that a command line gives with commas between them, each once, in the table's order.

    Raises:
        UserError: there is no such format, or a package that one needs is not installed.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise UserError(
                f"unknown format {name!r}{near_misses(name, FORMATS)}\nallowed: {', '.join(FORMATS)}, several with "
                "commas between them"
            )
        for package in FORMATS[name].needs:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise UserError(
                    f"--format {name} needs {package}, which is not installed\nInstall the extra: pip install "
                    "'reslightning[export]'. Or leave the format out."
                ) from error
    return [name for name in FORMATS if name in names]


def torchvision_call(network: Network) -> str | None:
    """Return how torchvision builds a network, ``resnet50(num_classes=10)``; None where it has no such network."""
    from torchvision.models import list_models

    arch = network["arch"]
    if arch not in list_models() or _options(network) != _options({"arch": arch}):
        return None
    options = BORROWED[arch].options if arch in BORROWED else {}
    return f"{arch}({_arguments({'num_classes': network['num_classes'], **options})})"


def _options(network: Network) -> object:
    return canonical(network["arch"], *(network.get(name) for name in OPTIONS[1:]))


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not None)


# -- parameters alone ------------------------------------------------------------------------------


def _write_safetensors(network: nn.Module, facts: Facts, size: int, file: BinaryIO) -> None:
    from reslightning.models.checkpoint import write_safetensors

    write_safetensors(file, network.state_dict(), facts)


def _read_safetensors(path: Path, facts: Facts) -> nn.Module:
    return _built(facts["hyper_parameters"], path)


def _built(network: Network, path: Path) -> nn.Module:
    from reslightning.models.resnet import build_model

    options: dict[str, Any] = {name: network.get(name) for name in OPTIONS}
    return build_model(network["arch"], **options, weights=str(path)).eval()


def _lines_of_safetensors(network: Network) -> str:
    return 'import reslightning\nnetwork = reslightning.load("model.safetensors")\nprint(network.class_names)'


def _write_torch(network: nn.Module, facts: Facts, size: int, file: BinaryIO) -> None:
    import torch

    torch.save(network.state_dict(), file)


def _read_torch(path: Path, facts: Facts) -> nn.Module:
    import torch
    from torchvision.models import get_model

    network = facts["hyper_parameters"]
    if torchvision_call(network) is None:
        return _built(network, path)
    arch, classes = network["arch"], network["num_classes"]
    options = BORROWED[arch].options if arch in BORROWED else {}
    model: nn.Module = get_model(arch, weights=None, num_classes=classes, **options)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def _lines_of_torch(network: Network) -> str:
    if call := torchvision_call(network):
        load = 'network.load_state_dict(torch.load("model.pth", weights_only=True))'
        return f"import torch, torchvision\nnetwork = torchvision.models.{call}.eval()\n{load}"
    options = {name: network.get(name) for name in OPTIONS} | {"weights": "model.pth"}
    build = f"reslightning.build_model({network['arch']!r}, {_arguments(options)})"
    return f"import reslightning\nnetwork = {build}\nnetwork.eval()".replace("'", '"')


# -- graphs ----------------------------------------------------------------------------------------


def _program(network: nn.Module, size: int) -> ExportedProgram:
    """Return a network as a graph of any number of images; it says nothing of where its code lay."""
    import torch

    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own use of torch
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _write_onnx(network: nn.Module, facts: Facts, size: int, file: BinaryIO) -> None:
    import torch

    from reslightning.models.checkpoint import METADATA

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            _program(network, size),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=["output"],
            dynamic_shapes=({0: "batch"},),
        )
    assert made is not None
    made.model.metadata_props[METADATA] = json.dumps(facts)
    file.write(made.model_proto.SerializeToString())


def _read_onnx(path: Path, facts: Facts) -> Callable[[Tensor], Tensor]:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def _lines_of_onnx(network: Network) -> str:
    return (
        'import onnxruntime\nsession = onnxruntime.InferenceSession("model.onnx")\n'
        f'network = lambda images: session.run(None, {{"{INPUT}": images}})[0]  # of NumPy'
    )


def _write_program(network: nn.Module, facts: Facts, size: int, file: BinaryIO) -> None:
    import torch

    from reslightning.models.checkpoint import METADATA

    torch.export.save(_program(network, size), file, extra_files={METADATA: json.dumps(facts)})


def _read_program(path: Path, facts: Facts) -> nn.Module:
    import torch

    return torch.export.load(path).module()


def _lines_of_program(network: Network) -> str:
    return 'import torch\nprogram = torch.export.load("model.pt2")\nnetwork = program.module()'


FORMATS = {
    "safetensors": Format("model.safetensors", _write_safetensors, _read_safetensors, _lines_of_safetensors),
    "torch": Format("model.pth", _write_torch, _read_torch, _lines_of_torch),
    "onnx": Format("model.onnx", _write_onnx, _read_onnx, _lines_of_onnx, True, ("onnx", "onnxscript", "onnxruntime")),
    "torch.export": Format("model.pt2", _write_program, _read_program, _lines_of_program, True),
}


def check_graphs(names: Sequence[str], *, normalise: bool, softmax: bool) -> None:
    """Raise UserError where what belongs into a graph is asked for, and no format that has one."""
    asked = [f"--{name}" for name, value in (("normalise", normalise), ("softmax", softmax)) if value]
    if asked and not any(FORMATS[name].graph for name in names):
        graphs = " or ".join(name for name, row in FORMATS.items() if row.graph)
        raise UserError(
            f"{' and '.join(asked)} would mean nothing to {', '.join(names)}, which holds parameters alone\nGive "
            f"--format {graphs} too, or leave it out."
        )
