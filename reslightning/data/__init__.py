"""Data sets by class name: ``Digits``, ``CIFAR10``, ``CIFAR100``."""

from reslightning.data.base import DataModule
from reslightning.data.cifar import CIFAR10, CIFAR100
from reslightning.data.digits import Digits

__all__ = ["CIFAR10", "CIFAR100", "DataModule", "Digits"]
