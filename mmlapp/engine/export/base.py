# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The interface of a file format, and what all formats share."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.export import Dim

from mmlapp.core import PruningError
from mmlapp.core.arguments import choose_from
from mmlapp.core.choices import Choices
from mmlapp.core.compare import DEPLOYED_TOLERANCE
from mmlapp.core.numbers import check_number

# An image batch [n, c, h, w] to all outputs.
Run = Callable[[Tensor], list[Tensor]]
# Which dimensions of the images a file leaves open: their numbers and names.
DYNAMIC: dict[str, dict[int, str]] = {
    'none': {},
    'batch': {0: 'batch'},
    'size': {0: 'batch', 2: 'height', 3: 'width'},
}
# The lowest that the exporter of torch writes without a conversion.
OPSET = 18
# Features of an FPN are added up: heights and widths are multiples of the
# stride of its last level, 32, or of a further one, 64.
STRIDE = 32
STEPS = 1, STRIDE, 2 * STRIDE
# Loggers that tell of their own operators, whichever the network has.
TALKATIVE = 'torch.onnx', 'onnxscript', 'onnx_ir'
# Half precision has 11 bits, 5e-4 of each value, which layers accumulate.
HALF_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Settings:
    """How a file is written.

    Args:
        dynamic (str): What may differ from the example: ``none``, the
            ``batch``, or batch and ``size``. Defaults to ``batch``.
        opset (int, optional): Version of ONNX's operators. Defaults to None:
            18, or the least that has what the network computes with.
        slim (bool): Whether OnnxSlim simplifies an ONNX file. Defaults to
            False.
        fp16 (bool): Whether to compute in half precision; inputs and outputs
            stay float32. Defaults to False.

    Raises:
        PruningError: If a value is none of these.
    """

    dynamic: str = 'batch'
    opset: int | None = None
    slim: bool = False
    fp16: bool = False

    def __post_init__(self) -> None:
        """Checks what a user gave."""
        if self.dynamic not in DYNAMIC:
            raise PruningError(
                f'dynamic={self.dynamic!r}: '
                f'{choose_from(DYNAMIC, str(self.dynamic))}'
            )
        if self.opset is not None:
            check_number('opset', self.opset, least=1, whole=True)

    def shapes(self, images: Tensor, step: int = 1) -> dict[int, Any]:
        """Returns the open dimensions, as ``torch.export`` says them.

        Args:
            images (Tensor): The example, ``[n, c, h, w]``.
            step (int): What heights and widths are multiples of. Defaults
                to 1.
        """
        return {
            dim: _open(name, images.shape[dim], step) if dim else Dim(name)
            for dim, name in DYNAMIC[self.dynamic].items()
        }

    def only(self, names: Collection[str]) -> Settings:
        """Returns these settings, and all others as they are by default.

        Args:
            names (Collection[str]): Of settings.
        """
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return Settings(**{n: v for n, v in kept.items() if n in names})

    def check_taken(self, names: Collection[str], said: str) -> None:
        """Refuses settings that would have no effect.

        Args:
            names (Collection[str]): Of those that have one.
            said (str): On what, for the error text.

        Raises:
            PruningError: With the first one.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in names and value != field.default:
                raise PruningError(
                    f'{field.name}={value!r} has no effect on {said}; leave '
                    'it out'
                )


def _open(name: str, size: int, step: int) -> Any:
    """An edge from 32 pixels on, or from that of a smaller example."""
    if step > 1 and size % step == 0:
        # Derived: 32 times a number that is open.
        return step * Dim(name)
    return Dim(name, min=min(size, STRIDE))


class Exporter(ABC):
    """A file format, under a name that users write.

    Attributes:
        suffix (str): Of its files, by which :func:`~.files.load` knows them.
        needs (Sequence[str]): Packages beside torch.
        tolerance (float): Largest relative error of an output, beside that
            of the network in torch. Defaults to 1e-4.
        takes (Sequence[str]): Names of the settings that mean something to
            it. Defaults to those of every file that runs by itself.
    """

    suffix: ClassVar[str]
    needs: ClassVar[Sequence[str]] = ()
    tolerance: ClassVar[float] = DEPLOYED_TOLERANCE
    takes: ClassVar[Sequence[str]] = ('dynamic', 'fp16')

    @abstractmethod
    def write(
        self,
        network: nn.Module,
        images: Tensor,
        path: Path,
        names: Sequence[str],
        settings: Settings,
    ) -> None:
        """Writes a file.

        Args:
            network (nn.Module): Maps images to a tuple of tensors.
            images (Tensor): An example, ``[n, c, h, w]``.
            path (Path): The file.
            names (Sequence[str]): Of the outputs.
            settings (Settings): How.
        """

    @abstractmethod
    def load(self, path: Path, threads: int | None = None) -> Run:
        """Returns a function that runs a file.

        Args:
            path (Path): The file.
            threads (int, optional): Threads of a runtime of its own.
                Defaults to None: as many as the runtime likes.
        """


EXPORTERS: Choices[type[Exporter]] = Choices('format')


def register_exporter(name: str) -> Callable[[type], type]:
    """Returns a decorator that adds a file format.

    Args:
        name (str): The name that users write.
    """
    return EXPORTERS.register(name)


def check_packages(name: str, packages: Sequence[str]) -> None:
    """Refuses a format whose packages are not installed.

    Args:
        name (str): Its name.
        packages (Sequence[str]): What it needs.

    Raises:
        PruningError: With the command that installs them.
    """
    missing = [p for p in packages if find_spec(p) is None]
    if missing:
        raise PruningError(
            f'format={name!r} needs {", ".join(missing)}, which is not '
            f'installed: pip install {" ".join(missing)}, or mmlapp[export] '
            'for those of all formats'
        )


def open_dimensions(
    images: Tensor, settings: Settings
) -> Iterator[tuple[int, dict[int, Any]]]:
    """Yields open dimensions, those that restrict the images least first.

    Args:
        images (Tensor): The example, ``[n, c, h, w]``.
        settings (Settings): What is to be open.

    Yields:
        tuple[int, dict[int, Any]]: What heights and widths are multiples of,
        and the dimensions.
    """
    for step in STEPS if settings.dynamic == 'size' else STEPS[:1]:
        yield step, settings.shapes(images, step)


def load_operators() -> None:
    """Makes operators of torchvision known, which files for torch may have."""
    if find_spec('torchvision') is not None:
        import_module('torchvision')


@contextmanager
def without_warnings() -> Iterator[None]:
    """Of exporters about themselves: what they wrote is compared after."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
