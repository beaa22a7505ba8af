# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Norms over one number: they give their shift, 0 / 0 or an error."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from mmlapp.core import PruningError, analyse, attach
from mmlapp.core.analysis.alone import lone_groups
from mmlapp.core.gathering import PAIR, Gathering
from mmlapp.core.trace import trace


class Standardised(nn.Conv2d):
    """As in NFNets (arXiv 2101.08692), whose deviation is of each filter."""

    def forward(self, x):
        weight = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(weight, None, None, training=True)
        weight = weight.reshape_as(self.weight)
        padding = self.kernel_size[0] // 2
        return functional.conv2d(x, weight, self.bias, padding=padding)


class ByHand(nn.LayerNorm):
    """A norm of channels first, of which the middle is another one's."""

    function = None

    def forward(self, x):
        y = type(self).function(x).movedim(1, -1)
        return (y * self.weight + self.bias).movedim(-1, 1)


def by_hand(function):
    return type('Own', (ByHand,), {'function': staticmethod(function)})(8)


class Deviation(nn.Module):
    """Without a name that anybody knows."""

    def forward(self, x):
        return x / x.std(1, keepdim=True)


class LayerNorm2d(nn.LayerNorm):
    """Channels first."""

    def forward(self, x):
        y = functional.layer_norm(
            x.movedim(1, -1), (x.shape[1],), self.weight, self.bias
        )
        return y.movedim(-1, 1)


# What is behind a layer of 8 channels: at one position or at many, how many
# choices there are, and how many of them must stay.
NORMS = {
    'layer norm': (LayerNorm2d(8), False, 8, 2),
    'group norm': (nn.GroupNorm(1, 8), True, 8, 2),
    'group norm of maps': (nn.GroupNorm(1, 8), False, 8, 1),
    # One of each group at least, of which two make a deviation.
    'two groups': (nn.GroupNorm(2, 8), True, 4, 2),
    # Two channels each, of which both go or stay.
    'four groups': (nn.GroupNorm(4, 8), True, 4, 1),
    'without parameters': (nn.GroupNorm(1, 8, affine=False), True, 8, 2),
    'instance norm': (nn.InstanceNorm2d(8, affine=True), False, 8, 1),
    # 0 / 0 of one number, nothing at all, and its sign.
    'deviation': (by_hand(lambda x: x / x.std(1, keepdim=True)), False, 8, 2),
    'of no known class': (Deviation(), False, 8, 2),
    'softmax': (nn.Softmax(1), False, 8, 2),
    'centred': (by_hand(lambda x: x - x.mean(1, keepdim=True)), False, 8, 2),
    'length': (by_hand(functional.normalize), False, 8, 1),
    'root mean square': (
        by_hand(lambda x: x / x.square().mean(1, keepdim=True).sqrt()),
        False,
        8,
        1,
    ),
    'weights, one each': (Standardised(8, 8, 1), False, 8, 2),
    'weights, nine each': (Standardised(8, 8, 3), False, 8, 1),
}


def gated(net, conv, norm, one):
    """A layer with a norm behind it, of what was pooled or of a map."""

    def forward(m, x):
        y = m.a(x.mean((2, 3), keepdim=True) if one else x)
        return m.b(m.norm(y).sigmoid())

    return net(forward, a=conv(3, 8), norm=copy.deepcopy(norm), b=conv(8, 5))


@pytest.mark.parametrize('name', NORMS)
def test_as_many_stay_as_a_deviation_is_taken_of(
    net, conv, image, agree, name
):
    """The smallest network says something of a single image, in numbers."""
    norm, one, size, floor = NORMS[name]
    result = agree(gated(net, conv, norm, one), image, keep=0.0)
    group = result.pruner.groups[0]
    assert (group.name, group.size, group.floor) == ('a', size, floor)
    with torch.no_grad():
        first, second = (result.slim(x[None]) for x in image)
    assert first.isfinite().all()
    assert not torch.allclose(first, second)


def test_initial_weights_do_not_tell(net, conv, image):
    """With a scale of zero no norm says anything, whatever is left."""
    for norm, floor in ((nn.RMSNorm(8), 1), (nn.LayerNorm(8), 2)):
        nn.init.zeros_(norm.weight)
        model = net(
            lambda m, x: m.b(m.norm(m.a(x).movedim(1, -1)).movedim(-1, 1)),
            a=conv(3, 8),
            norm=norm,
            b=conv(8, 5),
        )
        (group,) = attach(model, image).groups
        assert group.floor == floor


def test_the_smallest_of_all_maps_counts(net, conv, image):
    """As in a head that several levels of a pyramid share."""

    def forward(m, x):
        y = m.a(x)
        levels = y, y.amax((2, 3), keepdim=True)
        return [m.b(m.norm(level)) for level in levels]

    model = net(forward, a=conv(3, 8), norm=nn.GroupNorm(1, 8), b=conv(8, 5))
    (group,) = analyse(model, image).groups.prunable
    assert group.floor == 2


def test_positions_are_those_of_the_whole_image(conv):
    """At the corner that is tried there is but one."""
    norm = nn.GroupNorm(1, 8)
    model = nn.Sequential(nn.AvgPool2d(64), conv(3, 8), norm, conv(8, 5))
    (group,) = attach(model, torch.rand(1, 3, 128, 128)).groups
    assert group.floor == 1


def test_what_others_are_beside_may_be_one(net, conv, image, agree):
    """Each keeps one, and of two there is a deviation."""
    model = net(
        lambda m, x: m.c(m.norm(torch.cat([m.a(x), m.b(x)], 1))),
        a=conv(3, 4),
        b=conv(3, 4),
        norm=LayerNorm2d(8),
        c=conv(8, 5),
    )
    result = agree(model, image, keep=0.0)
    floors = [info.floor for info in result.pruner.groups]
    assert floors == [1, 1]


def test_of_two_none_can_go(net, conv, image, frozen):
    model = net(
        lambda m, x: m.c(m.norm(m.b(m.a(x)))),
        a=conv(3, 8),
        b=conv(8, 2),
        norm=LayerNorm2d(2),
        c=conv(2, 5),
    )
    assert frozen(model, image)['b'] == PAIR


def test_a_mask_with_less_is_refused(net, conv, image):
    pruner = attach(gated(net, conv, nn.GroupNorm(1, 8), True), image)
    with pytest.raises(PruningError, match='keeps 1 channels of a, which n'):
        pruner.set_mask(torch.arange(8) == 0)


def test_modules_are_left_as_they_were(net, conv, image):
    class Counted(LayerNorm2d):
        def __init__(self):
            super().__init__(8)
            self.register_buffer('calls', torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x).relu_()

    model = gated(net, conv, Counted(), False).train()
    record = trace(model, lambda: model(image))
    before = copy.deepcopy(model.state_dict())
    held = {name: id(value) for name, value in model.named_parameters()}
    (group,) = lone_groups(model, record, Gathering(record).groups())
    assert group.name == 'a'
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert held == {n: id(value) for n, value in model.named_parameters()}
    assert all(module.training for module in model.modules())
