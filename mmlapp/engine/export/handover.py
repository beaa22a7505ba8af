# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""State dicts with plans, in PyTorch's format and as safetensors.

``mmlapp.core.load_slim(dense, path)`` makes a dense network the slim one of a
``.pth``, ``load_slim(dense, safetensors.torch.load_file(path))`` that of a
``.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmlapp.core import ChannelPlan, load_slim
from mmlapp.core.compare import DEPLOYED_TOLERANCE, largest_error
from mmlapp.core.handover.fuse import Fold
from mmlapp.core.handover.slim import slim_bytes, slim_state

from .agreement import Agreement
from .base import check_packages
from .files import Exported, check_out, keep
from .network import Network
from .outputs import outputs_of

# Name of the format: suffix of its files.
HANDOVERS = {'plain': '.pth', 'safetensors': '.safetensors'}


@dataclass(frozen=True)
class Slim:
    """A slim model, and what makes it of a dense one.

    Args:
        network (Network): The model as a function of images.
        plans (Sequence[ChannelPlan]): What it was narrowed to; none of a
            dense one.
        folds (Sequence[tuple[str, str]]): Norms that were folded.
        dense (Callable): Builds a dense model.
    """

    network: Network
    plans: Sequence[ChannelPlan]
    folds: Sequence[Fold]
    dense: Callable[[], nn.Module]


def hand_over(
    slim: Slim, images: Tensor, out: Path, name: str, force: bool = False
) -> Exported:
    """Writes a state dict with its plans, if a dense model becomes it.

    Args:
        slim (Slim): The model.
        images (Tensor): On which outputs are compared, ``[n, c, h, w]``.
        out (Path): The file.
        name (str): ``plain`` or ``safetensors``.
        force (bool): Whether to replace a file. Defaults to False.

    Raises:
        PruningError: If the file cannot be written, or a dense model with it
            computes something else; nothing is left then.
    """
    if name == 'safetensors':
        check_packages(name, ['safetensors'])
    check_out(out, force)

    def write(path: Path) -> Agreement:
        WRITERS[name](slim, path)
        # As a user would: of a new dense model and the file alone.
        rebuilt = load_slim(slim.dense(), READERS[name](path))
        # By the same kernels: nothing is left to rounding.
        return Agreement(
            _error(slim.network, slim.network.of(rebuilt), images)
        )

    return keep(name, out, write, DEPLOYED_TOLERANCE)


def _error(a: Network, b: Network, images: Tensor) -> float:
    return largest_error(outputs_of(a, images), outputs_of(b, images))


def _write_plain(slim: Slim, path: Path) -> None:
    path.write_bytes(slim_bytes(slim.network.model, slim.plans, slim.folds))


def _write_safetensors(slim: Slim, path: Path) -> None:
    """The plans are readable in the header, too."""
    state = slim_state(slim.network.model, slim.plans, slim.folds)
    plans = [plan.to_dict() for plan in slim.plans]
    # transformers refuses files that do not say whose tensors they hold.
    header = {'format': 'pt', 'pruning_plans': json.dumps(plans)}
    module: Any = import_module('safetensors.torch')
    path.write_bytes(module.save(state, header))


def _read_safetensors(path: Path) -> Any:
    module: Any = import_module('safetensors.torch')
    return module.load(path.read_bytes())


WRITERS = {'plain': _write_plain, 'safetensors': _write_safetensors}
READERS: dict[str, Callable[[Path], Any]] = {
    'plain': lambda path: path,
    'safetensors': _read_safetensors,
}
