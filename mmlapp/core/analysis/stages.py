# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a network on trial computes with, and one run of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import (
    AlphaDropout,
    FeatureAlphaDropout,
    _DropoutNd,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..compare import ROUGH_TOLERANCE, SCREEN_TOLERANCE, TRIAL_TOLERANCE
from ..derived import lay_out
from ..forward_names import asks_in_training, forward_names
from ..generators import generators_in, put_back
from ..plan.kept import Kept
from ..snapshot import Before, Recast, Twins, computing, values_of
from ..trace import running_modules, tensors_in
from .corner import Corner
from .depthwise import is_depthwise, use_products
from .draws import SteadyDraws
from .values import RandomValues

# What is kept of a network that loses nothing.
WHOLE: Mapping[str, Mapping[int, Kept]] = MappingProxyType({})
# Dropout that does not put zeros in place of what it drops.
FILLED = (AlphaDropout, FeatureAlphaDropout)
# What multiplies whole samples by noise, which no channel is told apart by.
OF_SAMPLES = {
    'mmcv.cnn.bricks.drop.DropPath',
    'timm.layers.drop.DropPath',
    'torchvision.ops.stochastic_depth.StochasticDepth',
}
OTHER_MODULES = 'calls other modules than those that were followed'


@dataclass(frozen=True)
class Stage:
    """What a network computes with.

    Args:
        random (bool): Whether with random values, or with its own.
        dtype (torch.dtype, optional): The precision; None leaves it.
        corner (bool): Whether large images are cut to a corner. Defaults to
            False.
        screen (bool): Whether a difference is looked at again in float64,
            for that takes long with large images. Defaults to False.
    """

    random: bool
    dtype: torch.dtype | None
    corner: bool = False
    screen: bool = False

    @property
    def tolerance(self) -> float:
        """Largest relative error that rounding may lead to."""
        if self.screen:
            return SCREEN_TOLERANCE
        exact = self.dtype is torch.float64
        return TRIAL_TOLERANCE if exact else ROUGH_TOLERANCE


EXACT = Stage(True, torch.float64)
# The first one counts in which the network runs and gives finite numbers.
STAGES = (
    Stage(True, torch.float64, corner=True),
    Stage(True, torch.float32, screen=True),
    EXACT,
    # Some kernels know float32 alone.
    Stage(True, torch.float32, corner=True),
    Stage(True, torch.float32),
    Stage(False, torch.float64),
    Stage(False, None),
)


@dataclass
class Failure:
    """What went wrong with a network.

    Args:
        module (str): Innermost module that was running, empty if none.
        error (str): The exception; empty if only the outputs differ.
    """

    module: str = ''
    error: str = ''


# Outputs, none where it failed, and what went wrong.
Outcome = tuple[list[Tensor], Failure | None]
# Called with a module that has run, its arguments and what it returned.
Left = Callable[[nn.Module, Any, Any], None]


class Runner:
    """Runs a network in stages; it is put back as it was each time.

    Args:
        model (nn.Module): The network.
        order (list[str]): Modules that its example calls, in order.
        more (bool): Whether further ways were followed behind it, which the
            order ends with.
    """

    def __init__(self, model: nn.Module, order: list[str], more: bool) -> None:
        self.model, self.order, self.more = model, order, more
        self.names: dict[nn.Module, str] = {
            module: name for name, module in model.named_modules()
        }
        self.devices = {p.device for p in model.parameters()}
        self.corner = Corner(model)
        self._generators = generators_in(self.names)
        self._before = Before(model)
        self._random = RandomValues(model)
        self.depthwise = list(filter(is_depthwise, self.names))
        # Of the last stage and plan: masked and narrowed network share them.
        self._values: Twins = {}
        self._made_for: tuple[object, ...] = ()
        # Whether the network computes with those very values.
        self._shared = True

    @contextmanager
    def computing(
        self,
        stage: Stage,
        kept: Mapping[str, Mapping[int, Kept]],
        positive: bool,
        alone: bool = False,
    ) -> Iterator[Recast]:
        """Lets the network compute as a stage says.

        Yields a function that gives it copies in another precision, which
        may be changed in place.

        Args:
            stage (Stage): The stage.
            kept (Mapping): What a plan keeps of each dimension.
            positive (bool): Whether random weights have no signs.
            alone (bool): Whether parameters may be changed in place: none
                shares memory with another one. Defaults to False.
        """
        wanted = stage.random, stage.dtype, _Same(kept), positive, alone
        if alone or self._made_for != wanted:
            self._values = {}  # before the next ones: memory for one set
            if not stage.random or stage.dtype is None:
                values = values_of(self.names, stage.dtype)
            else:
                values = self._random.draw(stage.dtype, kept, positive, alone)
            self._values, self._made_for = values, wanted
        self._shared = True
        with computing(self._before, self._values, stage.dtype) as recast:

            def copied(dtype: torch.dtype) -> None:
                recast(dtype)
                self._shared = False

            for layer in (
                self.depthwise if stage.dtype is torch.float64 else ()
            ):
                use_products(layer)
            yield copied

    def outputs(
        self,
        forward: Callable[[], Any],
        stage: Stage,
        train: bool = False,
        seed: int = 0,
        left: Left | None = None,
        steady: bool = False,
    ) -> Outcome:
        """Runs the network once, inside of :meth:`computing`.

        Args:
            forward (Callable): How.
            stage (Stage): The stage.
            train (bool): Whether in training mode. Defaults to False.
            seed (int): Of the random numbers that it draws. Defaults to 0.
            left (Callable): Called when a module has run. Defaults to
                nothing.
            steady (bool): Whether it draws the same numbers at any width.
                Defaults to False.
        """
        self._prepare(train)
        if train and self._shared:
            self._made_for = ()  # it may change values in place
        called: list[str] = []
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(seeded(self.devices, seed))
            stack.enter_context(put_back(self._generators, seed))
            if steady:
                stack.enter_context(SteadyDraws())
            running = stack.enter_context(
                running_modules(
                    self.names, lambda m: called.append(self.names[m]), left
                )
            )
            if stage.corner:
                forward = self.corner.of(forward)
                stack.enter_context(self.corner.cutting(running))
            try:
                found = list(tensors_in(forward()))
            except Exception as error:
                name = self.names[running[-1]] if running else ''
                return [], Failure(name, str(error) or type(error).__name__)
        # Further ways may have been followed behind the example.
        order = self.order[: len(called)] if self.more else self.order
        if stage.corner and not train and called != order:
            return [], Failure('', OTHER_MODULES)
        return found, None

    def _prepare(self, train: bool) -> None:
        """Sets the mode, and buffers that may be changed in place."""
        twins: Twins = {}
        for module in self.names:
            mode = train and not _is_still(module)
            if module.training is not mode:
                module.training = mode
            for name, value in module._buffers.items():
                if value is not None:
                    twin = twins.setdefault(id(value), value.clone())
                    module._buffers[name] = twin
        lay_out(self.names)

    def is_rough(self, forward: Callable[[], Any], stage: Stage) -> bool:
        """Whether the network itself computes something in less than float64.

        Args:
            forward (Callable): How it runs.
            stage (Stage): One of float64.
        """
        precision = _Precision()
        with self.computing(stage, WHOLE, False), precision:
            self.outputs(forward, stage)
        return precision.rough


@dataclass(frozen=True, eq=False)
class _Same:
    """Equal if it holds the same object."""

    held: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


class _Precision(TorchDispatchMode):
    """Notes whether an operator gives less than float64."""

    rough = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.rough |= any(
            isinstance(t, Tensor) and t.is_floating_point() and t.itemsize < 8
            for t in tree_leaves(out)
        )
        return out


def _is_still(module: nn.Module) -> bool:
    """Whether a module stays in evaluation mode.

    The example may be too small for statistics of a batch. Dropout leaves
    zeros, and need not run, unless it fills in other values.
    """
    cls: type = type(module)
    return _of_still_ones(cls)


@cache
def _of_still_ones(cls: type) -> bool:
    if f'{cls.__module__}.{cls.__qualname__}' in OF_SAMPLES:
        return True
    return issubclass(cls, (_NormBase, _DropoutNd)) and not issubclass(
        cls, FILLED
    )


def makes_noise(module: nn.Module) -> bool:
    """Whether a module looks as if training did something else with it.

    Its forward asks for the mode, and it has a probability. That others do
    so as well is seen when they run, which takes longer.

    Args:
        module (nn.Module): The module.

    Examples:
        >>> [makes_noise(nn.AlphaDropout(p)) for p in (0.0, 0.5)]
        [False, True]
    """
    if _is_still(module) or 'training' not in forward_names(module):
        return False
    values = vars(module).values()
    return any(isinstance(v, float) and 0 < v <= 1 for v in values)


def ask_in_training(modules: Iterable[nn.Module]) -> bool:
    """Whether code may ask for numbers of channels in training alone.

    Args:
        modules (Iterable[nn.Module]): All modules of a network.
    """
    return any(asks_in_training(m) and not _is_still(m) for m in modules)


@contextmanager
def seeded(devices: set[torch.device], seed: int) -> Iterator[None]:
    """Lets random numbers begin anew, and puts their states back.

    Args:
        devices (set[torch.device]): Where the network is.
        seed (int): Of the numbers.
    """
    cuda = [device for device in devices if device.type == 'cuda']
    with torch.random.fork_rng(cuda):
        # Of other devices nothing is to change, so that all are not seeded.
        torch.default_generator.manual_seed(seed)
        for device in cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
