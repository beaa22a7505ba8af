# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Functions that are given the size of one tensor for another one."""

import pytest
import torch

SIZES = {
    'view': lambda y, z: z.view(len(z), y.shape[1], -1),
    'reshape by name': lambda y, z: z.reshape(shape=(2, y.size(1), 64)),
    'function': lambda y, z: torch.reshape(z, (2, *y.shape[1:2], 64)),
    'unflatten': lambda y, z: z.flatten().unflatten(0, (2, y.size()[1], 64)),
    'from the end': lambda y, z: z.flatten(1).unflatten(-1, (y.shape[1], 64)),
    'split': lambda y, z: z.flatten(2).split(y.shape[1], dim=1)[0],
    'a twin': lambda y, z: z.view(2, 2 * y.shape[1] // 2, 64),
}


@pytest.mark.parametrize('name', SIZES)
def test_what_one_tensor_is_as_wide_as_shrinks_with_another(
    net, conv, image, agree, name
):
    """Two convolutions of which one is reshaped by the width of the other."""

    def forward(m, x):
        y = SIZES[name](m.a(x), m.b(x))
        return m.c(y.reshape(x.shape[0], -1, 8, 8)) + m.d(m.a(x))

    parts = {'a': conv(3, 6), 'b': conv(3, 6), 'c': conv(6, 5)}
    model = net(forward, **parts, d=conv(6, 5))
    assert agree(model, image).groups == {'a': 6}
