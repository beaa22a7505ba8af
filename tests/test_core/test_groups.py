# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from torch import nn

from mmlapp.core import analyse


def test_global_numbers_count_the_prunable_channels(conv, image):
    model = nn.Sequential(conv(3, 6), conv(6, 8), conv(8, 4), conv(4, 5))
    model.double()
    found = analyse(model, image).groups
    numbers = found.node_channel[found.node_channel >= 0].unique()
    assert numbers.tolist() == list(range(6 + 8 + 4))
    owner = found.node_group[found.node_channel.argsort()]
    assert owner[-1] == 2
    assert ((found.node_channel < 0) == (found.node_group < 0)).all()


def test_a_node_of_every_channel(net, conv, image):
    """Also where several indices are one channel, as in two equal halves."""
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=nn.GroupNorm(2, 8),
        b=conv(8, 5),
    )
    groups = analyse(model, image).groups
    (group,) = groups.prunable
    assert groups.channels_at(group.nodes).tolist() == [0, 1, 2, 3]


def test_what_is_frozen_is_counted_by_layer_and_reason(net, conv, image):
    """A cut makes two channels of six indices, of four and of two."""

    def forward(m, x):
        x = m.first(x)
        return m.second(x[:, :4]), x[:, 4:].sum(1), m.third(x)

    model = net(forward, first=conv(3, 6), second=conv(4, 2), third=conv(6, 3))
    found = analyse(model, lambda: model(image)).groups
    assert found.items[0].size == 2
    cut, output = 'cut at a position that is a constant', 'output of the net'
    assert [(f.layer, f.channels) for f in found.frozen] == [
        ('first', 6),
        ('second', 2),
        ('third', 3),
    ]
    reasons = [f.reason for f in found.frozen]
    starts = [cut, output, output]
    assert all(map(str.startswith, reasons, starts))


def test_why_a_layer_is_frozen_does_not_repeat_its_name(conv, image):
    model = nn.Sequential(conv(3, 6), conv(6, 8), conv(8, 4))
    model.double()
    found = analyse(model, image, scope='1').groups
    assert found.frozen[0] == ('0', 6, 'outside the scope')
    assert found.items[0].frozen == 'outside the scope: 0'
