# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Code that relies on two numbers of channels being equal."""

import pytest

from mmlapp.core import analyse
from mmlapp.core.analysis.equal_widths import unequal_checks


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('width', [2, 3, 4, 5])
def test_small_groups_are_tried_apart(
    net, conv, image, agree_everywhere, width, turned
):
    """Fewer of one that is cut by the size of the other one are no image."""

    def forward(m, x):
        pair = m.a(x), m.b(x)
        y, z = reversed(pair) if turned else pair
        z = z.flatten()[: y.numel()].view(len(z), len(z[0]), 8, 8)
        return m.c(y) + m.d(z)

    model = net(
        forward,
        a=conv(3, width),
        b=conv(3, width),
        c=conv(width, 5),
        d=conv(width, 5),
    )
    agree_everywhere(model, image)


def test_nothing_more_is_tried_where_two_numbers_are(net, conv, image):
    """Of four channels three are left and two, of which code asks no sum."""
    model = net(
        lambda m, x: m.c(m.a(x)) + m.d(m.b(x)),
        a=conv(3, 4),
        b=conv(3, 4),
        c=conv(4, 5),
        d=conv(4, 5),
    ).eval()
    found = analyse(model, image)
    assert list(unequal_checks(found.trace, found.groups)) == []
    found.trace.elements_counted = True
    kept = [c.kept for c in unequal_checks(found.trace, found.groups)]
    assert kept == [(('a', 4),), (('b', 4),)]
