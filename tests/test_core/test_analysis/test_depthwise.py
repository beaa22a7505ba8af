# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from copy import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmlapp.core.analysis import depthwise
from mmlapp.core.analysis.depthwise import is_depthwise, use_products
from mmlapp.core.analysis.stages import EXACT, STAGES, WHOLE, Runner


class Operators(TorchDispatchMode):
    """Notes whether PyTorch's own convolution runs."""

    convolution = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.convolution |= 'convolution' in str(func)
        return func(*args, **(kwargs or {}))


def own(layer, x):
    """Outputs, and whether PyTorch computed them."""
    layer = copy(layer)
    use_products(layer)
    with torch.no_grad(), Operators() as operators:
        out = layer(x)
    return out, operators.convolution


image = partial(torch.rand, 2, 6, 9, 8, dtype=torch.float64)
layer = partial(nn.Conv2d, 6, 6, groups=6, dtype=torch.float64)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kernel', [3, (1, 5), (4, 2)])
@pytest.mark.parametrize('stride', [1, (2, 3)])
@pytest.mark.parametrize('padding', [0, (2, 1)])
def test_the_outputs_of_pytorch(bias, kernel, stride, padding):
    conv = layer(
        kernel_size=kernel,
        stride=stride,
        padding=padding,
        bias=bias,
    )
    x = image()
    out, convolution = own(conv, x)
    assert not convolution
    torch.testing.assert_close(out, conv(x), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    'settings',
    [
        dict(groups=3),
        dict(groups=1),
        dict(dilation=2),
        dict(out_channels=12),
        dict(padding='same'),
        dict(padding=1, padding_mode='reflect'),
        dict(dtype=torch.float32),
    ],
)
def test_everything_else_is_left_to_pytorch(settings):
    usual = dict(out_channels=6, kernel_size=3, groups=6, dtype=torch.float64)
    conv = nn.Conv2d(6, **usual | settings)
    x = image().to(conv.weight.dtype)
    out, convolution = own(conv, x)
    assert convolution
    assert torch.equal(out, conv(x))


@pytest.mark.parametrize('stride', [1, (3, 2)])
def test_wide_images_need_no_copies_of_windows(stride):
    """Adding up shifted images gives what a product of windows gives."""
    conv = layer(kernel_size=(2, 5), stride=stride, padding=(1, 2))
    x = torch.rand(2, 6, 4, 40, dtype=torch.double)
    out, convolution = own(conv, x)
    assert not convolution
    torch.testing.assert_close(out, conv(x), rtol=1e-14, atol=1e-14)


def test_large_windows_are_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(depthwise, 'LARGEST', 6 * 9 * 8 * 2 * 9 - 1)
    assert own(layer(kernel_size=3), image())[1]


@pytest.mark.parametrize(
    'x', [torch.rand(1, 5, 9, 8).double(), torch.rand(1, 6, 2, 8).double()]
)
def test_what_does_not_fit_raises_what_it_raises(x):
    conv = layer(kernel_size=3)
    with pytest.raises(RuntimeError) as expected:
        conv(x)
    with pytest.raises(RuntimeError) as found:
        own(conv, x)
    assert str(found.value) == str(expected.value)


def test_a_bias_of_another_size_raises():
    """A product would repeat a single number."""
    conv = layer(kernel_size=3)
    conv.bias = nn.Parameter(conv.bias[:1])
    with pytest.raises(RuntimeError, match='bias'):
        own(conv, image())


def test_what_is_depthwise():
    found = [
        is_depthwise(nn.Conv2d(6, out, 3, groups=groups))
        for out, groups in ((6, 6), (12, 6), (6, 3), (6, 1))
    ]
    assert found == [True, False, False, False]
    assert not is_depthwise(nn.Conv2d(1, 1, 3))
    assert not is_depthwise(nn.Conv1d(6, 6, 3, groups=6))
    assert not is_depthwise(nn.ReLU())


@pytest.mark.parametrize('stage', [EXACT, STAGES[1]])
def test_a_trial_uses_it_in_float64(conv, stage):
    model = nn.Sequential(conv(3, 8), conv(8, 8, groups=8))
    runner = Runner(model, [], False)
    operators = Operators()
    with runner.computing(stage, WHOLE, False), operators:
        runner.outputs(lambda: model[1](torch.rand(1, 8, 8, 8)), stage)
    assert operators.convolution is (stage is not EXACT)
    assert type(model[1]) is nn.Conv2d


def test_inside_of_vmap():
    """As in ensembles of a network."""
    conv, x = layer(kernel_size=3), image()
    expected = conv(x)
    use_products(conv)
    found = torch.func.vmap(conv)(x[:, None])
    torch.testing.assert_close(found[:, 0], expected)
