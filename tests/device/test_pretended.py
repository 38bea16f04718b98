"""What would wait for a device is found, and named by its line."""

import linecache
from pathlib import Path

import pytest
import torch

from tests.device.pretended import CUDA, WaitError, steady

NUMBERS = [3.0, 1.0, 2.0]
MISTAKES = {
    "x.sum().item()": "needs a tensor's numbers",
    "x.tolist()": "needs a tensor's numbers",
    "bool(x.sum() > 0)": "needs a tensor's numbers",
    "int(x[0])": "needs a tensor's numbers",
    "range(4)[x.long()[0]]": "needs a tensor's numbers",
    "torch.equal(x, x)": "needs a tensor's numbers",
    "x[x > 0]": "needs a tensor's numbers",
    "x.masked_select(x > 0)": "needs a tensor's numbers",
    "x.nonzero()": "needs a tensor's numbers",
    "x.unique()": "needs a tensor's numbers",
    "x.long().bincount()": "needs a tensor's numbers",
    "x.__setitem__(x > 0, x)": "needs the numbers of a mask",
    "x.cpu()": "copied to the host",
    "x.to('cpu', non_blocking=True)": "copied to the host",
    "host.copy_(x)": "copied to the host",
    "x.copy_(host)": "copied to the device",
    "host.to(x.device)": "copied to the device",
    "torch.tensor(NUMBERS, device=CUDA)": "copied to the device",
    "torch.as_tensor(NUMBERS).to(x)": "copied to the device",
    "x.new_tensor(NUMBERS)": "copied to the device",
    "x[host.long()]": r"\[3\] stayed on the host",
    "x.__setitem__(host.long(), 0)": r"\[3\] stayed on the host",
    "x + host": r"\[3\] stayed on the host",
    "x[[0, 1]]": "a Python list",
}
FINE = (
    *(
        "x[0]",
        "x[1:]",
        "x[x.long()]",
        "x.sum()",
        "x + 1",
        "x + torch.tensor(1.0)",
        "torch.where(x > 0, 1.0, torch.inf)",
    ),
    *("x.__setitem__(0, 5)", "x.__setitem__(x > 0, 5)", "x.copy_(host, non_blocking=True)", "x.clone()"),
    *("host.to(x.device, non_blocking=True)", "torch.arange(3, device=CUDA)", "torch.zeros_like(x)"),
    *("host[host > 1].tolist()", "torch.tensor(NUMBERS).sum().item()"),
)


PLANTED = str(Path(__file__).with_name("planted.py"))  # whose only line is the statement


def does(statement, device, monkeypatch):
    x, host = torch.ones(3, device=CUDA), torch.tensor(NUMBERS)
    monkeypatch.setitem(linecache.cache, PLANTED, (len(statement), None, [statement], PLANTED))
    with steady(device):
        return eval(compile(statement, PLANTED, "eval"), globals(), {"x": x, "host": host})


@pytest.mark.parametrize("statement", MISTAKES)
def test_a_mistake_is_found_and_named_by_its_line(device, monkeypatch, statement):
    with pytest.raises(WaitError, match=MISTAKES[statement]) as caught:
        does(statement, device, monkeypatch)
    assert f"planted.py:1 in <module>: {statement}" in str(caught.value)


@pytest.mark.parametrize("statement", FINE)
def test_what_waits_for_nothing_is_fine(device, monkeypatch, statement):
    does(statement, device, monkeypatch)
