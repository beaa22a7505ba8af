# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Writes a file, runs it, and keeps it if it computes what the network does.

Files run without this package:

- ``.onnx``: ``onnxruntime.InferenceSession(path).run(None, {'input': x})``
- ``.pt2``: ``torch.export.load(path).module()(x)``
- ``.torchscript``: ``torch.jit.load(path)(x)``

``x`` is float32 ``[n, c, h, w]``, and the outputs are a tuple or a list.
:func:`load` runs any of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmlapp.core import PruningError

from ..output_files import check_output, write_output
from .agreement import Agreement, Reference, worst
from .base import HALF_TOLERANCE, STEPS, Exporter, Run, Settings
from .formats import find_exporter, format_of
from .outputs import checked_names, flat


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared.

    Args:
        format (str): Name of its format.
        path (Path): The file.
        error (float): Largest relative error of an output on the images.
        tolerance (float): What was allowed.
        size (int): In bytes.
        seconds (float): Writing and comparing took.
        undecided (int): Values that are others since rounding decides about
            them in the network itself, see :mod:`.agreement`. Defaults to 0.
    """

    format: str
    path: Path
    error: float
    tolerance: float
    size: int
    seconds: float
    undecided: int = 0


def export(
    network: nn.Module,
    images: Tensor,
    out: str | Path,
    names: Sequence[str] | None = None,
    settings: Settings = Settings(),  # noqa: B008, frozen
    force: bool = False,
) -> Exported:
    """Writes a network in a file format.

    The file is written under a temporary name, loaded, run on the images and,
    where dimensions are open, on other batches and sizes, and renamed if all
    outputs are those of the network in torch.

    Args:
        network (nn.Module): Maps images to tensors in any containers; in
            evaluation mode.
        images (Tensor): Real ones, as the network reads them, float32
            ``[n, c, h, w]``.
        out (str or Path): The file; its suffix tells the format.
        names (Sequence[str], optional): Of the outputs. Defaults to None:
            ``output``, or ``output_0`` and so on.
        settings (Settings): How. Defaults to an open batch.
        force (bool): Whether to replace a file. Defaults to False.

    Returns:
        Exported: What was written.

    Raises:
        PruningError: If the format is unknown, a package is missing, the
            format cannot hold the network, or the outputs differ; no file is
            left then.

    Examples:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, 'net.torchscript')
        ...     made = export(net, torch.rand(2, 3, 8, 8), path)
        ...     outputs = load(path)(torch.zeros(1, 3, 8, 8))
        >>> made.error <= made.tolerance, outputs[0].shape
        (True, torch.Size([1, 4, 6, 6]))
    """
    out = Path(out)
    name = format_of(out)
    exporter = find_exporter(name)
    check_out(out, force)
    _check_network(network)
    _check_images(images)
    settings.check_taken(exporter.takes, f'format={name!r}')
    own = flat(network, settings.fp16)
    tolerance = HALF_TOLERANCE if settings.fp16 else exporter.tolerance
    checks = _inputs(images, settings.dynamic)
    # Before a file is written: what the network cannot run itself is no fault
    # of a format.
    expected = _references(network, checks)
    labels = checked_names(names, len(expected[0].outputs))

    def write(path: Path) -> Agreement:
        _write(
            exporter, name, (own, checks[0].clone(), path, labels, settings)
        )
        found = _outputs(exporter, name, path, checks)
        pairs = zip(expected, found, strict=True)
        return worst([r.compared(f, tolerance) for r, f in pairs])

    return keep(name, out, write, tolerance)


def keep(
    name: str,
    out: Path,
    write: Callable[[Path], Agreement],
    tolerance: float,
) -> Exported:
    """Writes a file under a temporary name, and keeps it if it agrees.

    Args:
        name (str): Of the format.
        out (Path): The file.
        write (Callable): Writes to a path and returns how far what is there
            is from the network.
        tolerance (float): What is allowed.

    Raises:
        PruningError: If the outputs differ, or the file cannot be written; no
            file is left then.
    """
    # A list, by which the agreement comes out of the function.
    start, found = time.perf_counter(), []

    def checked(path: Path) -> None:
        found.append(write(path))
        error = found[0].error
        # Not by >, for NaN exceeds nothing.
        if not error <= tolerance:
            raise PruningError(
                f'format={name!r}: the file does not compute what the '
                f'network does (relative error {error:.2g}, at most '
                f'{tolerance:g}). It was not kept'
            )

    write_output('out', out, checked)
    seconds = time.perf_counter() - start
    size = out.stat().st_size
    made = found[0]
    return Exported(
        name, out, made.error, tolerance, size, seconds, made.undecided
    )


def _check_network(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if module.training:
            raise PruningError(
                f'{name or "the network"} is in training mode, where norms '
                'compute otherwise: call network.eval() first'
            )


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise PruningError(
            f'images is of type {type(images).__name__}: expected one tensor '
            '[n, c, h, w]'
        )
    if images.dim() != 4 or not images.numel():
        raise PruningError(
            f'images of shape {tuple(images.shape)}: expected [n, c, h, w] '
            'with an image at least'
        )


def _references(
    network: nn.Module, checks: Sequence[Tensor]
) -> list[Reference]:
    """What a network computes in torch, which a file must compute, too."""
    try:
        found = [Reference(network, x) for x in checks]
    except Exception as error:  # whatever the user's code raises
        raise PruningError(
            f'the network does not run on images of shape '
            f'{tuple(checks[-1].shape)} and type {checks[-1].dtype} '
            f'({brief(error)}). Give images as it reads them'
        ) from error
    if not found[0].outputs:
        raise PruningError(
            'the network returns no tensors in lists, tuples or '
            'dictionaries, and a file can hold nothing else: return such'
        )
    return found


def load(path: str | Path, threads: int | None = None) -> Run:
    """Returns a function that runs a file which :func:`export` wrote.

    Files for torch are programs: load none from those whom you do not trust.

    Args:
        path (str or Path): The file; its suffix tells the format.
        threads (int, optional): Of ONNX Runtime. Defaults to None: one for
            each core. Other formats run on the threads of torch.

    Returns:
        Callable: Maps images ``[n, c, h, w]`` to a list of output tensors.

    Raises:
        PruningError: If there is no such file, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise PruningError(f'path={str(path)!r}: there is no such file')
    exporter = find_exporter(format_of(path))
    try:
        return exporter.load(path, threads)
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(
            f'path={str(path)!r} cannot be loaded: it is truncated, damaged '
            f'or of another format ({brief(error)})'
        ) from error


def check_out(out: Path, force: bool) -> None:
    """Refuses a path that cannot or must not be written.

    Args:
        out (Path): The file.
        force (bool): Whether it may be replaced.

    Raises:
        PruningError: With the path and the remedy.
    """
    check_output('out', out)
    if out.exists() and not force:
        raise PruningError(
            f'out={str(out)!r} exists; choose another name, or replace it '
            'with --force'
        )


def brief(error: BaseException) -> str:
    """Returns the cause at the root of an error in one line.

    Args:
        error (BaseException): Exporters wrap theirs several times.
    """
    # Exporters wrap errors in errors of their own stages.
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0] if lines else ""}'[:300]


def _inputs(images: Tensor, dynamic: str) -> list[Tensor]:
    """The example, then what else the file must compute on.

    Other values always, by images in a mirror: a value that is read from the
    example may be a constant in the file.
    """
    # [n, c, h, w], other values than those by which a file was traced.
    mirrored = images.flip(-1)
    if dynamic == 'none':
        return [images, mirrored]
    # What is open must not be one in the example: torch takes it for fixed.
    example = images if len(images) > 1 else torch.cat([images, images])
    found = [example, mirrored[:1]]
    if dynamic == 'size':
        height, width = images.shape[2:]
        # 64 and 128 more: multiples of 32 and of 64 stay such.
        size = height + STEPS[-1], width + 2 * STEPS[-1]
        found.append(interpolate(example[:1], size, mode='bilinear'))
    return found


def _write(exporter: Exporter, name: str, args: tuple[Any, ...]) -> None:
    """Writes; whatever a format does not know is one line of text."""
    try:
        exporter.write(*args)
    # These say by themselves what is wrong: a setting, or the disk.
    except (PruningError, OSError):
        raise
    except Exception as error:
        raise PruningError(
            f'format={name!r} cannot hold this network ({brief(error)}). '
            'Try another format, a larger image with input_shape, or fewer '
            'open dimensions with dynamic='
            "'none'"
        ) from error


def _outputs(
    exporter: Exporter, name: str, path: Path, inputs: Sequence[Tensor]
) -> list[list[Tensor]]:
    """What a file computes on all inputs."""
    try:
        run = exporter.load(path)
        return [run(x.clone()) for x in inputs]
    except Exception as error:
        raise PruningError(
            f'format={name!r}: the file that was written does not run '
            f'({brief(error)}). It was not kept'
        ) from error
