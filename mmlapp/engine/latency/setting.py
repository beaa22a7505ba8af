# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a time holds for: device, backend, threads, batch and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mmlapp.core import PruningError
from mmlapp.core.arguments import choose_from
from mmlapp.core.numbers import check_number

# Packages whose version is noted, by backend.
PACKAGES = {
    'torch': ('torch',),
    'compile': ('torch',),
    'onnxruntime': ('onnxruntime', 'onnx', 'torch'),
    'openvino': ('openvino', 'onnx', 'torch'),
}
DEVICES = 'cpu', 'cuda'


@dataclass(frozen=True)
class Setting:
    """How something is measured.

    Args:
        backend (str): What runs the network. Defaults to ``torch``.
        threads (int): Of one operator. Defaults to 1.
        batch (int): Images at once. Defaults to 1.
        device (str): ``cpu`` or ``cuda``. Defaults to ``cpu``.

    Raises:
        PruningError: If a value is none of these, or the device is not
            there.
    """

    backend: str = 'torch'
    threads: int = 1
    batch: int = 1
    device: str = 'cpu'

    def __post_init__(self) -> None:
        """Checks what a user gave."""
        if self.backend not in PACKAGES:
            raise PruningError(
                f'backend={self.backend!r}: '
                f'{choose_from(PACKAGES, str(self.backend))}'
            )
        check_number('threads', self.threads, least=1, whole=True)
        check_number('batch', self.batch, least=1, whole=True)
        if self.device not in DEVICES:
            raise PruningError(
                f'device={self.device!r}: {choose_from(DEVICES)}'
            )
        if self.device == 'cuda' and not torch.cuda.is_available():
            raise PruningError("device='cuda': torch finds no GPU; give cpu")
        if self.device == 'cuda' and self.backend in (
            'onnxruntime',
            'openvino',
        ):
            raise PruningError(
                f'device={self.device!r}: backend={self.backend!r} runs on '
                'the CPU here; give cpu'
            )

    def described(self) -> dict[str, Any]:
        """Returns all that decides on a time, but for the network."""
        return {
            'device': device_name(self.device),
            'backend': self.backend,
            'threads': self.threads,
            'batch': self.batch,
            'versions': versions(self.backend),
        }


def usual_divisor(device: str) -> int:
    """Returns how many channels kernels of a device compute at a time.

    Args:
        device (str): ``cpu`` or ``cuda``.
    """
    # 16 floats fill a register of AVX-512, 8 one of AVX2.
    wide = torch.backends.cpu.get_cpu_capability() == 'AVX512'
    return 16 if device == 'cpu' and wide else 8


def versions(backend: str) -> dict[str, str]:
    """Returns the versions of the packages that run a network.

    Args:
        backend (str): What runs it.
    """
    found = {}
    for package in PACKAGES[backend]:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = 'not installed'
    return found


def device_name(device: str) -> str:
    """Returns what a device is called by its maker.

    Args:
        device (str): ``cpu`` or ``cuda``.
    """
    if device == 'cuda':
        return torch.cuda.get_device_name()
    # Where Linux tells it, a line `model name : AMD EPYC` for every core, of
    # which the first is taken; elsewhere what Python knows.
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(':')[2] for x in lines if x.startswith('model name')]
    name = names[0].strip() if names else platform.processor()
    return f'{name or platform.machine()}, {platform.machine()}'


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns how two settings differ in a few words; empty if they agree.

    Args:
        old (Mapping[str, Any]): What was measured.
        new (Mapping[str, Any]): What is to be.

    Examples:
        >>> difference({'threads': 1, 'batch': 1}, {'threads': 2, 'batch': 1})
        'threads 1, not 2'
    """
    parts = [
        f'{name} {old.get(name)}, not {new.get(name)}'
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    return '; '.join(parts)
