# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What must hold for every network, asked of one after the other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmlapp.core import (
    ChannelPlan,
    Pruner,
    PruningError,
    PruningWarning,
    attach,
    merge_bypasses,
    narrow,
)

from .masks import COUNTS, draw_mask
from .networks import Network, random_state

# Rounding in float64, as a share of the largest number of an output.
TOLERANCE = 1e-9
# Rounding that a few steps of training have spread.
TRAINED = 1e-6
# What is said of a network that has nothing to prune.
NOTHING = (
    'no channel can be pruned',
    'no convolution or linear layer that emits more than one channel',
    'no layer can take a bypass',
    'has a bypass from an earlier pruning',
)
BRANCHES = 'depthwise', 'pointwise', 'grouped'
# Far above rounding: a gradient that should be zero is noise, which they
# would divide by its own size.
EPS = 1e-4
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    'sgd': lambda p: torch.optim.SGD(p, 0.02, 0.9, weight_decay=0.01),
    'adam': lambda p: torch.optim.Adam(p, 0.01, eps=EPS, amsgrad=True),
    'adamw': lambda p: torch.optim.AdamW(p, 0.01, eps=EPS, weight_decay=0.1),
    'rmsprop': lambda p: torch.optim.RMSprop(p, 0.005, eps=EPS, momentum=0.5),
}


class RefusedError(Exception):
    """A network that has nothing to prune; no fault of anybody."""


@dataclass
class Case:
    """A network under test.

    Args:
        network (Network): How it is made.
        options (dict[str, Any]): Of ``attach``.
    """

    network: Network
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def rng(self) -> Random:
        """Chooses masks and the like, the same ones at every turn."""
        return Random(f'{self.network.spec.seed} checks')

    @cached_property
    def example(self) -> Any:
        """What the network is traced with."""
        return self.network.example()

    def dense(self) -> nn.Module:
        """Makes the network with the weights of after training."""
        model = self.network.build()
        model.load_state_dict(self.weights(model))
        return model

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Returns the weights of after training."""
        return random_state(model, self.network.spec.seed)

    @cached_property
    def masked(self) -> nn.Module:
        """The network with a pruner, all channels alive."""
        # Half of all networks are analysed as they begin, with gates at
        # zero, and trained afterwards.
        late = self.network.spec.seed % 2 == 1
        model = self.network.build() if late else self.dense()
        before = run(model, self.example)
        keys = list(model.state_dict())
        try:
            with warnings.catch_warnings():
                # That of a network whose outputs repeat can be checked.
                warnings.filterwarnings(
                    'error', '.*cannot be checked', PruningWarning
                )
                attach(
                    model,
                    self.example,
                    unused=self.network.unused,
                    **self.options,
                )
        except PruningError as error:
            raise _understood(error) from error
        if 'bypass' not in self.options:
            same(before, run(model, self.example), 'attached')
        found = [k for k in model.state_dict() if not _added(k)]
        assert found == keys, 'attach changes the keys of the state dict'
        if late:
            plain = self.network.build()
            model.load_state_dict(self.weights(plain), strict=False)
        return model

    @property
    def pruner(self) -> Pruner:
        """Of the masked network."""
        found = self.masked.pruner
        assert isinstance(found, Pruner)
        return found

    def mask(self, name: str) -> ChannelPlan:
        """Masks the network; returns the plan."""
        self.pruner.set_mask(draw_mask(self.pruner, self.rng, name))
        return self.pruner.plan()

    def narrowed(self, plan: ChannelPlan) -> nn.Module:
        """Makes the narrow network of the masked one."""
        return narrow(copy.deepcopy(self.masked), plan)


def _understood(error: PruningError) -> Exception:
    nothing = any(text in str(error) for text in NOTHING)
    return RefusedError(str(error)) if nothing else error


def _added(key: str) -> bool:
    return 'pruner.' in key or 'bypass' in key or key.endswith('.kept')


def run(model: nn.Module, x: Any) -> tuple[list[Tensor], Any]:
    """Runs a network; returns its tensors and how they are packed."""
    torch.manual_seed(0)
    with torch.no_grad():
        return tree_flatten(model(x))


def same(
    expected: tuple[list[Tensor], Any],
    found: tuple[list[Tensor], Any],
    what: str,
    tolerance: float = TOLERANCE,
) -> None:
    """Compares what two networks return."""
    assert expected[1] == found[1], f'{what}: other outputs'
    for a, b in zip(expected[0], found[0], strict=True):
        close(a, b, what, tolerance)


def close(a: Tensor, b: Tensor, what: str, tolerance: float) -> None:
    """Compares two tensors by the scale of the first one."""
    assert a.shape == b.shape, (
        f'{what}: {tuple(b.shape)} instead of {tuple(a.shape)}'
    )
    if not a.numel():
        return
    # An error of 1e-9 in what should be zero is one.
    scale = float(a.abs().max().clamp_min(1e-3))
    error = float((a - b).abs().max()) / scale
    assert error <= tolerance, f'{what}: they differ by {error:.1e}'


def macs(model: nn.Module, x: Any) -> float:
    """Multiply-adds as torch counts them below the dispatcher."""
    counter = FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
                lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
            )
        },
    )
    # Torch's counter does not know the kernels of the fused path.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with counter, torch.no_grad():
            model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 2


# The checks.


def narrows(case: Case, masks: tuple[str, ...] = tuple(COUNTS)) -> None:
    """Masked and narrowed networks compute and cost the same."""
    for name in masks:
        plan = case.mask(name)
        narrow_model = case.narrowed(plan)
        what = f'mask {name!r}'
        expected = run(case.masked, case.example)
        same(expected, run(narrow_model, case.example), what)
        if not case.network.fixed:
            x = case.network.example(1, batch=3, more=1)
            same(run(case.masked, x), run(narrow_model, x), f'{what}, resized')
        _costs(case, plan, narrow_model, what)


def _costs(case: Case, plan: ChannelPlan, model: nn.Module, what: str) -> None:
    counted = {'parameters': sum(p.numel() for p in model.parameters())}
    # A sum over one index is no product for torch.einsum.
    one = any(len(kept.index) == 1 for kept in plan.groups.values())
    if not (one and 'einsum' in case.network.source):
        counted['flops'] = macs(model, case.example)
    for name, number in counted.items():
        noted = plan.costs[name]['pruned']
        assert abs(noted - number) <= 1e-6 * number, (
            f'{what}: the plan says {noted} {name}, there are {number}'
        )


def merges(case: Case) -> None:
    """Merged bypasses compute the same, and say why they stay."""
    narrow_model = case.narrowed(case.mask('random'))
    # Norms of branches have seen nothing yet: mean 0, variance 1.
    expected = run(narrow_model, case.example)
    found = merge_bypasses(narrow_model)
    same(expected, run(narrow_model, case.example), 'merged')
    assert all(reason is None or reason for reason in found.values())


def trains(case: Case) -> None:
    """Training goes on after narrowing as it would have with masks."""
    name = case.rng.choice(list(OPTIMIZERS))
    plan = case.mask('random')
    wide = copy.deepcopy(case.masked)
    # Numbers that dropout draws depend on the width.
    wide.train(
        'ropout' not in case.network.source
        and 'rand(' not in case.network.source
    )
    twin = copy.deepcopy(wide)
    optimizers = [OPTIMIZERS[name](m.parameters()) for m in (wide, twin)]
    for step in range(2):
        for model, optimizer in zip((wide, twin), optimizers, strict=True):
            _step(model, optimizer, case.network.example(step))
    narrow(twin, plan, optimizers[1])
    for step in range(2, 4):
        for model, optimizer in zip((wide, twin), optimizers, strict=True):
            _step(model, optimizer, case.network.example(step))
    narrow(wide, plan)
    _same_state(wide, twin, name)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Any) -> None:
    optimizer.zero_grad()
    torch.manual_seed(0)
    tensors = [t for t in tree_flatten(model(x))[0] if t.requires_grad]
    if not tensors:
        raise RefusedError('nothing can be trained')
    # Curved, and different for each position.
    loss = sum(
        (t * torch.linspace(0.5, 1, t.numel(), dtype=t.dtype).view(t.shape))
        .square()
        .mean()
        for t in tensors
    )
    loss.backward()
    nn.utils.clip_grad_value_(model.parameters(), 1.0)
    optimizer.step()


def _same_state(wide: nn.Module, twin: nn.Module, what: str) -> None:
    expected, found = wide.state_dict(), twin.state_dict()
    assert list(expected) == list(found), 'other keys'
    for key, value in expected.items():
        close(value, found[key], f'{what}, {key}', TRAINED)
    # Gradients are sliced like weights.
    grads = {n: p.grad for n, p in twin.named_parameters()}
    for key, parameter in wide.named_parameters():
        if parameter.grad is None or grads[key] is None:
            missing = [
                g for g in (parameter.grad, grads[key]) if g is not None
            ]
            assert not any(g.any() for g in missing), f'{key}: no gradient'
            continue
        close(
            parameter.grad, grads[key], f'{what}, gradient of {key}', TRAINED
        )


def copies(case: Case) -> None:
    """Copies, files and fresh networks all compute the same."""
    plan = case.mask('random')
    expected = run(case.masked, case.example)
    same(expected, run(copy.deepcopy(case.masked), case.example), 'copied')
    narrow_model = case.narrowed(plan)
    read = ChannelPlan.from_json(plan.to_json())
    assert read == plan, 'the plan is another one when it was written'
    fresh = narrow(case.network.build(), read)
    if 'bypass' not in case.options:
        fresh.load_state_dict(narrow_model.state_dict())
        same(expected, run(fresh, case.example), 'loaded')
    again = copy.deepcopy(case.masked)
    # Another mask, which the state dict replaces.
    again.pruner.set_mask(torch.ones_like(case.pruner.mask))
    again.load_state_dict(case.masked.state_dict())
    same(expected, run(again, case.example), 'mask loaded')


def prunes_again(case: Case) -> None:
    """A narrowed network can be pruned once more, its bypasses merged."""
    small = case.narrowed(case.mask('half'))
    merge_bypasses(small)
    try:
        pruner = attach(small, case.example, unused=case.network.unused)
    except PruningError as error:
        raise _understood(error) from error
    pruner.set_mask(draw_mask(pruner, case.rng, 'random'))
    expected = run(small, case.example)
    plan = pruner.plan()
    smaller = narrow(copy.deepcopy(small), plan)
    same(expected, run(smaller, case.example), 'pruned again')
    _costs(case, plan, smaller, 'pruned again')


def meets_budget(case: Case) -> None:
    """The phase ends within its target, and no channel more would fit."""
    model = copy.deepcopy(case.masked)
    pruner = model.pruner
    target = case.rng.uniform(0.2, 1.0)
    cost = case.rng.choice(pruner.costs)
    try:
        pruner.begin({cost: target}, steps=1)
    except PruningError as error:
        if 'reachable minimum' not in str(error):
            raise
        return
    pruner.step()
    ratio = pruner.ratios()[cost]
    assert ratio <= target, f'{cost}: {ratio} instead of {target}'
    if ratio > target - 0.01:
        return
    mask = pruner.mask
    for channel in (~mask).nonzero()[:, 0].tolist():
        more = mask.double()
        more[channel] = 1
        found = float(pruner.cost(cost).ratio(more))
        assert found > target, (
            f'{cost}: {ratio} of {target}, with channel {channel} {found}'
        )


CHECKS: dict[str, Callable[[Case], None]] = {
    'narrows': narrows,
    'trains': trains,
    'copies': copies,
    'prunes again': prunes_again,
    'meets budget': meets_budget,
    'merges': merges,
}
