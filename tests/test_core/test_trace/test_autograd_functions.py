# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Custom autograd functions, visible and hidden ones."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._python_dispatch import _disable_current_modes

from mmlapp.core import attach, narrow
from mmlapp.core.gathering import Gathering
from mmlapp.core.groups import Groups
from mmlapp.core.trace import trace
from mmlapp.core.trace.blocks import registry
from mmlapp.core.trace.labels import Labels
from mmlapp.core.trace.tracer import Tracer


class Hidden(Function):
    """Doubles where no mode sees it, as an extension's own kernel does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with _disable_current_modes():
            return x * 2


class Visible(Function):
    """Doubles with PyTorch's operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2


double = Hidden.apply  # bound before the trace, as mmcv binds its own


class Net(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.conv(x)))


def groups_of(model: nn.Module) -> tuple[Groups, dict[str, int]]:
    record = trace(model, lambda: model(torch.rand(1, 3, 9, 9)))
    return Gathering(record).groups(), record.unknown


def test_what_a_hidden_kernel_reads_is_frozen_with_its_name() -> None:
    groups, unknown = groups_of(Net(double))
    assert not groups.prunable
    (name,) = unknown
    assert name.endswith('Hidden')
    assert any('Hidden, unknown here' in str(g.frozen) for g in groups.items)


def test_a_visible_function_is_followed() -> None:
    groups, unknown = groups_of(Net(Visible.apply))
    assert [g.name for g in groups.prunable] == ['conv']
    assert not unknown


def test_a_registered_function_is_followed_by_its_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arguments come by name, although the network gives them by position."""
    monkeypatch.setattr(registry, 'FUNCTIONS', dict(registry.FUNCTIONS))

    def doubled(
        tracer: Tracer, arguments: Mapping[str, Any], out: Tensor
    ) -> None:
        labels = tracer.labels(arguments['x'])
        tracer.note_reader(labels)
        tracer.set(out, Labels(dict(labels.axes)))

    registry.register_function('Hidden', rule=doubled)
    groups, unknown = groups_of(Net(double))
    assert [(g.name, g.size) for g in groups.prunable] == [('conv', 8)]
    assert not unknown


def test_functions_are_as_before_after_a_failed_forward() -> None:
    before = Hidden.__dict__['forward']

    def fail() -> None:
        raise RuntimeError('no forward')

    with pytest.raises(RuntimeError, match='no forward'):
        trace(Net(double), fail)
    assert Hidden.__dict__['forward'] is before


def test_the_kernel_of_rotated_regions_is_hidden() -> None:
    ops = pytest.importorskip('mmcv.ops')

    class Rois(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.fc = nn.Linear(8 * 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            boxes = torch.tensor([[0.0, 2.0, 2.0, 4.0, 4.0, 0.1]])
            y = ops.roi_align_rotated(self.conv(x), boxes, 2, 1.0)
            return self.fc(y.flatten(1))

    groups, unknown = groups_of(Rois())
    assert not groups.prunable
    assert any('RoIAlignRotated' in name for name in unknown)


class Centred(Function):
    """With a gradient that is written by hand, over channels as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad - grad.mean(1, keepdim=True)


class Norm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Centred.apply(x)


@pytest.mark.parametrize('function', [Norm(), Centred.apply])
def test_gradients_over_channels_are_those_of_the_narrow_network(
    function: Any,
) -> None:
    """What is computed backwards sees the living channels, or they stay."""
    model = Net(function).double()
    x = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    if not isinstance(function, nn.Module):
        with pytest.raises(Exception, match='reduced over channels by'):
            attach(model, x)
        return
    pruner = attach(model, x)
    pruner.set_mask(torch.arange(8) % 2 == 0)
    slim = narrow(copy.deepcopy(model), pruner.plan())
    for network in (model, slim):
        network(x).square().sum().backward()
    torch.testing.assert_close(
        model.conv.weight.grad[::2], slim.conv.weight.grad
    )
