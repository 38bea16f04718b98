"""A CUDA device that is not there: it has shapes and types but no numbers, and nobody may wait for it.

Tensors of the host are real and computed. Those of the device are torch's FakeTensors: whatever asks for one's numbers
fails, and so does, in a steady step, what would wait for a real device without asking: a copy that blocks, an index or
another tensor that stayed on the host.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.optim.optimizer import _foreach_supported_types as OPTIMIZED
from torch.utils._foreach_utils import _foreach_supported_types as TOGETHER
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda:0")
ROOT = Path(__file__).parents[2]
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
# Steps of optimizers as one kernel, which change tensors in place, and of which FakeTensors know no shapes.
FUSED = {torch.ops.aten._fused_sgd_.default, torch.ops.aten._fused_adamw_.default}
MASKED = {torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class WaitError(Exception):
    """What would wait for the device, and the line of this project that it comes from."""


class Device(TorchDispatchMode):
    """Lets operations of the device go on without numbers, above a FakeTensorMode, and those of the host for real.

    Attributes:
        steady: whether copies that block are refused, too, which a first step may make.
        copied: how many tensors the host has copied to the device.
    """

    steady = False
    copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            # Who asks is C++: autograd, which would start threads for a CUDA device, and for this one starts none.
            return torch.device("meta")
        args, kwargs = tree_map_only(torch.device, lambda d: CUDA if d.type == "meta" else d, (args, kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        if not any(_fake(leaf) or (isinstance(leaf, torch.device) and leaf.type == "cuda") for leaf in leaves):
            if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves):
                raise self._wait("a Python list becomes an index of the device")
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        self._check(func, args, kwargs)
        if func in FUSED:
            return None
        args, kwargs = tree_map_only(Tensor, self._there, (args, kwargs))
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise self._wait(f"{error.func} needs a tensor's numbers") from error

    def synchronize(self, device: Any = None) -> None:
        """Refuse what waits by its name, as ``torch.cuda.synchronize`` does."""
        if self.steady:
            raise self._wait("the device is waited for")

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        """Refuse what FakeTensors would let pass."""
        host = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not _fake(leaf)]
        if func in MOVES:
            to_host = func is torch.ops.aten._to_copy.default and kwargs.get("device", CUDA).type == "cpu"
            if to_host or (host and not _fake(args[0]) and func is torch.ops.aten.copy_.default):
                raise self._wait("a tensor of the device is copied to the host")
            self.copied += len(host)
            blocks = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            if self.steady and host and blocks:
                raise self._wait("a tensor of the host is copied to the device, which is waited for: non_blocking=True")
        # Numbers without dimensions are given to the device's kernels as they are.
        elif mixed := [list(tensor.shape) for tensor in host if tensor.ndim]:
            raise self._wait(f"{func}: a tensor {mixed[0]} stayed on the host, the others are on the device")
        if func in MASKED and args[2].numel() > 1 and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise self._wait(f"{func} needs the numbers of a mask")

    def _there(self, tensor: Tensor) -> Tensor:
        mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        return tensor if _fake(tensor) else mode.from_tensor(tensor)

    def _wait(self, what: str) -> WaitError:
        frames = [frame for frame in reversed(traceback.extract_stack()) if frame.filename != __file__]
        within = next(f for f in frames if "/torch/_" not in f.filename and "/torch/utils/_" not in f.filename)
        ours = next(f for f in frames if Path(f.filename).is_relative_to(ROOT))
        places = {f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}": None for f in (ours, within)}
        return WaitError(f"{what}\n" + "\n".join(f"  {place}" for place in places))


class Event:
    """A ``torch.cuda.Event``, which marks a place in the device's work, and is asked whether that is done."""

    def record(self) -> None:
        """Mark what comes before."""

    def query(self) -> bool:
        """Whether it is done."""
        return False


def _fake(given: Any) -> bool:
    return isinstance(given, FakeTensor)


@contextlib.contextmanager
def pretended() -> Iterator[Device]:
    """Have a CUDA device that is not there."""
    # The lists of types that torch takes the paths of a real device for, in optimizers and in gradients' lengths.
    with contextlib.ExitStack() as stack:
        for kind in (OPTIMIZED, TOGETHER):
            kind.append(FakeTensor)
            stack.callback(kind.remove, FakeTensor)
        stack.enter_context(FakeTensorMode(shape_env=None))
        yield stack.enter_context(Device())


@contextlib.contextmanager
def steady(device: Device) -> Iterator[None]:
    """Refuse whatever waits for the device."""
    device.steady = True
    try:
        yield
    finally:
        device.steady = False
