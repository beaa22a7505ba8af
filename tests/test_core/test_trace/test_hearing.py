# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What code asks for in one way to run, told to the trace of another one."""

import torch
from torch import nn

from mmlapp.core.trace import trace
from mmlapp.core.trace.hearing import hear


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(n, m, 1) for n, m in ((3, 12), (12, 9), (9, 2))
        )

    def forward(self, x):
        y = self.a(x)
        assert y.shape[1] > 3
        return self.c(self.b(y))

    def otherwise(self, x):
        # Other labels: something else is made before.
        y = self.a(torch.cat([x, x.new_zeros(1, 3, 2, 2)]))
        z = self.b(y)
        assert y.shape[1] > 3
        assert z.shape[1] > y.shape[1] // 5
        assert z.shape[1] % 4 == 1
        assert y.numel() > 0
        assert len(self.b.weight) > 0
        return self.c(z)


def test_what_is_asked_for_elsewhere_is_known_by_the_same_channels():
    model, x = Asking(), torch.rand(1, 3, 2, 2)
    record = trace(model, lambda: model(x))
    assert [t.least for t in record.thresholds] == [4]
    assert not record.remainders
    assert not record.elements_counted
    assert not record.measured
    hear(record, trace(model, lambda: model.otherwise(x)))
    # Once more than three of the first layer, which was known before.
    assert [t.least for t in record.thresholds] == [4, 3]
    root = record.graph.resolve()
    first, second = (
        root[record.nodes_of(f'{name}.weight', 0, size)]
        for name, size in (('a', 12), ('b', 9))
    )
    (known, found), (left,) = record.thresholds, record.remainders
    assert root[known.ids].equal(first)
    assert root[found.ids].equal(second)
    assert root[found.against].equal(first)
    assert left.divisor == 4
    assert root[left.ids].equal(second)
    assert record.elements_counted
    assert record.measured == {'b'}
