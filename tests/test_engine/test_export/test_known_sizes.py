# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from mmlapp.core import PruningError
from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.files import export, load
from mmlapp.engine.export.known_sizes import LIMITS, known_sizes


class Levels(nn.Module):
    """Splits what it has joined at sizes that it keeps in a tensor."""

    def forward(self, x):
        levels = [x, avg_pool2d(x, 2), avg_pool2d(x, 4)]
        shapes = [torch._shape_as_tensor(level)[2:] for level in levels]
        sizes = torch.cat(shapes).view(-1, 2)
        joined = torch.cat([level.flatten(2) for level in levels], 2)
        parts = joined.split([h * w for h, w in sizes], 2)
        # The last number of each level, behind all before it.
        starts = sizes.prod(1).cumsum(0)
        found = [
            part.reshape(len(x), -1, height, width)
            for part, (height, width) in zip(parts, sizes, strict=True)
        ]
        return [*found, joined[:, :, starts - 1]]


def test_networks_that_compute_with_sizes(tmp_path):
    path, images = tmp_path / 'net.pt2', torch.rand(2, 3, 8, 12)
    made = export(Levels().eval(), images, path, settings=Settings('none'))
    assert made.error == 0
    for found, expected in zip(
        load(path)(2 * images), Levels()(2 * images), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_sizes_that_are_open_are_not_known(tmp_path):
    path, images = tmp_path / 'net.pt2', torch.rand(2, 3, 8, 12)
    with pytest.raises(PruningError, match=r"cannot hold .*dynamic='none'"):
        export(Levels().eval(), images, path)
    assert not path.exists()


def state():
    limits = [getattr(import_module(m), name) for m, name in LIMITS]
    return [*limits, torch._shape_as_tensor]


def test_torch_is_as_ever_after_an_error():
    before = state()

    def fail():
        with known_sizes():
            raise ValueError(*state())

    with pytest.raises(ValueError, match='64') as info:
        fail()
    assert all(a != b for a, b in zip(before, info.value.args, strict=True))
    assert state() == before
