# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core.plan.kept import Kept
from mmlapp.core.units.striped import keep_stripes


def masked(layer, mask):
    """The same convolution with zeros where stripes are gone."""
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight *= mask[:, None]
    return twin


def some(layer, share=0.4):
    mask = torch.rand_like(layer.weight[:, 0]) < share
    mask.view(-1)[0] = True
    return mask


class Calls(TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.append(func)
        return func(*args, **(kwargs or {}))


GEOMETRIES = [
    dict(zip(('kernel_size', 'stride', 'dilation', 'padding'), g, strict=True))
    for g in itertools.product(
        [2, 3, (3, 2)], [1, 2, 3, (1, 2)], [1, 2], [0, 1, (2, 0), 'valid']
    )
]


@pytest.mark.parametrize('size', [(7, 6), (8, 8), (5, 5), (1, 1)])
def test_outputs_are_those_of_the_masked_convolution(size):
    """Whatever stride, dilation and padding; where the dense one runs."""
    ran = 0
    for geometry in GEOMETRIES:
        layer = nn.Conv2d(3, 4, **geometry).double()
        x = torch.randn(2, 3, *size).double()
        mask = some(layer)
        try:
            expected = masked(layer, mask)(x)
        except RuntimeError:
            continue  # the kernel is larger than the padded image
        keep_stripes(layer, Kept.from_mask(mask.flatten()))
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
        ran += 1
    assert ran > 10


@pytest.mark.parametrize(
    'layer',
    [
        nn.Conv2d(3, 4, 3, padding='same', dilation=2),
        nn.Conv2d(3, 4, 3, padding=1, stride=2, padding_mode='reflect'),
        nn.Conv2d(3, 4, 3, padding=(0, 2), padding_mode='circular'),
        nn.Conv2d(3, 4, 5, padding='same', padding_mode='replicate'),
        nn.Conv1d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv3d(3, 4, (1, 3, 2), stride=(2, 1, 2), padding=1),
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.Conv2d(3, 3, 3, stride=2, groups=3, padding_mode='reflect'),
        nn.Conv1d(3, 6, 3, stride=2, padding=1, groups=3),
    ],
    ids=str,
)
@pytest.mark.parametrize('batch', [(2,), ()])
def test_kinds_of_padding_and_numbers_of_dimensions(layer, batch):
    layer = copy.deepcopy(layer).double()
    size = (8, 6, 7)[: layer.weight.dim() - 2]
    x, mask = torch.randn(*batch, 3, *size).double(), some(layer)
    expected = masked(layer, mask)(x)
    keep_stripes(layer, Kept.from_mask(mask.flatten()))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('stride', [1, 2])
def test_it_multiplies_as_often_as_is_counted(stride):
    """Stripes times inputs times outputs: no pixel that a stride drops."""
    layer = nn.Conv2d(5, 6, 3, stride=stride, padding=1)
    mask = some(layer)
    keep_stripes(layer, Kept.from_mask(mask.flatten()))
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(2, 5, 8, 8))
    positions = 2 * (8 // stride) ** 2
    assert counter.get_total_flops() == 2 * positions * 5 * int(mask.sum())


def test_groups_multiply_as_often_as_is_counted():
    """Stripes times the inputs of their group times outputs."""
    layer = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2).double()
    mask, x = some(layer), torch.randn(2, 6, 8, 8).double()
    expected = masked(layer, mask)(x)
    keep_stripes(layer, Kept.from_mask(mask.flatten()))
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    count = 2 * 4**2 * 3 * int(mask.sum())
    assert counter.get_total_flops() == 2 * count


def test_one_product_computes_all_positions():
    """Unless a stride lets them read other pixels."""
    for stride, count in ((1, 1), (2, 4)):
        layer = nn.Conv2d(3, 4, 3, stride=stride, padding=1)
        keep_stripes(layer, Kept(36, range(36)))
        with Calls() as calls:
            layer(torch.randn(1, 3, 8, 8))
        aten = torch.ops.aten
        assert calls.found.count(aten.convolution.default) == 0
        products = aten.mm.default, aten.bmm.default
        assert sum(map(calls.found.count, products)) == count


def test_gradients_and_heirs():
    """By the input and the rows; a state follows as the weight did."""
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    mask = some(layer)
    wide, old = masked(layer, mask), layer.weight
    (heir,) = keep_stripes(layer, Kept.from_mask(mask.flatten()))[old]
    assert heir.new is layer.weight
    assert torch.equal(heir.take(old), layer.weight)
    x = torch.randn(2, 3, 8, 8).double()
    pairs = [(net, x.clone().requires_grad_()) for net in (layer, wide)]
    for net, image in pairs:
        net(image).square().sum().backward()
    torch.testing.assert_close(pairs[0][1].grad, pairs[1][1].grad)
    torch.testing.assert_close(layer.weight.grad, heir.take(wide.weight.grad))
    torch.testing.assert_close(layer.bias.grad, wide.bias.grad)


def test_rows_come_by_position_and_then_by_filter():
    layer = nn.Conv2d(1, 2, (1, 2), bias=False)
    old = layer.weight.detach().clone()
    # Stripes: filter 0 at 0 and 1, filter 1 at 0.
    keep_stripes(layer, Kept(4, (0, 1, 2)))
    expected = [old[0, 0, 0, 0], old[1, 0, 0, 0], old[0, 0, 0, 1]]
    assert layer.weight.flatten().tolist() == expected
    assert layer.filters.tolist() == [0, 1, 0]
    assert 'stripes=3 of 4' in repr(layer)


def test_it_is_copied_pickled_cast_and_frozen_as_before():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    layer.weight.requires_grad_(False)
    keep_stripes(layer, Kept(36, range(0, 36, 2)))
    assert not layer.weight.requires_grad
    assert isinstance(layer, nn.Conv2d)
    assert sorted(layer.state_dict()) == ['bias', 'filters', 'weight']
    x = torch.randn(1, 3, 6, 6)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.half()(x.half()).dtype == torch.half
