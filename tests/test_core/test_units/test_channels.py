# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import attach, narrow

KINDS = ['depthwise', 'pointwise', 'grouped']


@pytest.mark.parametrize('kind', KINDS)
def test_narrow_masks_the_bypass_too(plain, image, kind, mask_randomly):
    """Computes m (W(x) + B(x)), by hand."""
    model = plain()
    pruner = attach(model, image, bypass=kind)
    parameters = dict(model.b.named_parameters())
    x = torch.randn(2, 8, 8, 8).double()
    main = functional.conv2d(
        x, parameters['weight'], parameters['bias'], stride=2, padding=1
    )
    both = main + model.b.bypass(x)
    mask_randomly(pruner)
    start = [i.name for i in pruner.groups].index('b')
    mask = pruner.mask.split([i.size for i in pruner.groups])[start]
    torch.testing.assert_close(model.b(x), both * mask.view(1, -1, 1, 1))


def test_a_narrowed_bypass_may_have_nothing_to_do(net, conv, image):
    """Depthwise pairs that lost one end each: no bypass is left."""
    model = net(
        lambda m, x: m.c(m.b(m.a(x))),
        a=conv(3, 4),
        b=conv(4, 4),
        c=conv(4, 5),
    ).eval()
    pruner = attach(model, image, bypass='depthwise')
    pruner.set_mask(torch.tensor([1, 1, 0, 0, 0, 0, 1, 1]).bool())
    pruner.active = True
    masked = model(image)
    slim = narrow(copy.deepcopy(model), pruner.plan())
    assert slim.b.bypass is None
    torch.testing.assert_close(slim(image), masked)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'act', [nn.Sigmoid(), nn.PReLU(8), nn.Softplus()], ids=repr
)
def test_a_bypass_that_reads_what_is_not_zero(
    net, conv, image, agree, kind, act
):
    model = net(
        lambda m, x: m.d(m.c(m.b(m.act(m.a(x))).relu()).relu()),
        a=conv(3, 8),
        act=act,
        b=conv(8, 16),
        c=conv(16, 8),
        d=conv(8, 5),
    )
    result = agree(model, image, bypass=kind)
    assert 'c' in result.plan.branches
    assert ('b' in result.plan.branches) == isinstance(act, nn.PReLU)
