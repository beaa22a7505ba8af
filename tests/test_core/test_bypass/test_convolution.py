# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import re

import pytest
import torch
from torch import nn

from mmlapp.core import attach
from mmlapp.core.bypass import BRANCHES
from mmlapp.core.errors import LayerRefusedError

KINDS = ['depthwise', 'pointwise', 'grouped']
UNIT_NAMES = ['filters', 'channels']


@pytest.mark.parametrize('keep', [0.3, 0.5, 0.9])
@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('kind', KINDS)
def test_masked_and_narrowed_agree(
    plain, normed, image, agree, kind, unit, keep
):
    for model in (plain(), normed()):
        result = agree(model, image, keep=keep, bypass=kind, unit=unit)
        assert result.plan.branches


@pytest.mark.parametrize('unit', UNIT_NAMES)
@pytest.mark.parametrize('kind', KINDS)
def test_the_reference_has_no_bypass(plain, image, count_macs, kind, unit):
    model = plain().eval()
    dense = count_macs(model, image)
    pruner = attach(model, image, bypass=kind, unit=unit)
    assert pruner.cost('flops').dense == dense
    full = count_macs(model, image)
    assert full > dense
    assert float(pruner.cost('flops')(torch.ones(len(pruner.gate)))) == full
    assert pruner.ratios()['flops'] == pytest.approx(full / dense)


@pytest.mark.parametrize(
    ('widths', 'groups'),
    [((8, 8), 8), ((8, 16), 8), ((16, 8), 8), ((12, 8), 4), ((9, 15), 3)],
)
def test_depthwise_where_widths_differ(conv, widths, groups):
    assert BRANCHES.build('depthwise', conv(*widths)).conv.groups == groups


@pytest.mark.parametrize(
    ('widths', 'groups'), [((16, 32), 8), ((12, 8), 4), ((6, 9), 3)]
)
def test_grouped_bypass(conv, widths, groups):
    assert BRANCHES.build('grouped', conv(*widths)).conv.groups == groups


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'arguments',
    [
        dict(),
        dict(stride=2),
        dict(dilation=2, padding=2),
        dict(size=5, stride=3),
        dict(size=(1, 3), padding=(0, 1)),
    ],
)
@pytest.mark.parametrize('side', [7, 8])
def test_a_bypass_has_the_output_shape_of_its_layer(
    conv, kind, arguments, side
):
    layer = conv(8, 16, **arguments)
    x = torch.rand(1, 8, side, side)
    branch = BRANCHES.build(kind, layer)
    assert branch(x).shape == layer(x).shape
    assert branch.conv.bias is None


WITHOUT = {
    'transposed': (
        nn.ConvTranspose2d(8, 8, 3),
        'it is a transposed convolution',
    ),
    'linear': (nn.Linear(8, 8), 'Linear takes no bypass'),
    'padding in words': (
        nn.Conv2d(8, 8, 3, padding='same'),
        "padding='same'",
    ),
    'depthwise': (
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        'it is depthwise itself',
    ),
    'of an even kernel': (nn.Conv2d(8, 8, 2), 'not centred'),
    'without padding': (nn.Conv2d(8, 8, 3), 'not centred'),
    'as dear as the layer': (nn.Conv2d(8, 8, 1), 'would cost 100%'),
}


@pytest.mark.parametrize('name', WITHOUT)
def test_layers_without_a_bypass(name):
    layer, reason = WITHOUT[name]
    with pytest.raises(LayerRefusedError, match=re.escape(reason)):
        BRANCHES.build('pointwise', layer)
