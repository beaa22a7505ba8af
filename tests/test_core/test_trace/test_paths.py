# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import nn

from mmlapp.core import attach, narrow
from mmlapp.core.trace import trace
from mmlapp.core.trace.paths import Path, WatchCalls

LARGE = 160  # of which a corner of 64 is tried


def one_line(m, y):
    return y * y.shape[1] ** -0.5 if y.shape[-1] > 64 else y


def helper(m, y):
    return scaled(y) if y.shape[-1] > 64 else y


def scaled(y):
    scale = y.size(1) ** -0.5
    return y * scale


def attribute(m, y):
    if y.shape[-1] > 64:
        scale = 1 / math.sqrt(m.b.out_channels)
        y = y * scale
    return y


def argument(m, y):
    return y / m.b.out_channels if y.shape[-1] > 64 else y


def branch(m, y):
    if y.shape[-1] > 64:
        y = y.abs() if y.shape[1] > 5 else y
    return y


def elements(m, y):
    return y * (y.numel() / 1e5) if y.shape[-1] > 64 else y


ASKING = one_line, helper, attribute, argument, branch, elements


def position(m, y):
    """Another path, on which no channel is counted."""
    if y.shape[-1] > 64:
        y = nn.functional.pad(y, (0, 1, 0, 1)).roll(1, 2)[..., :-1, :-1]
    return y * y.shape[1] ** 0


def whole(m, y):
    """The same path at any size."""
    return y * y.shape[1] ** 0 + y.flatten(2).view(y.shape)


@pytest.fixture
def build(net, conv):
    def make(function):
        torch.manual_seed(0)
        return net(
            lambda m, x: m.c(function(m, m.b(m.a(x).relu()))),
            a=conv(3, 8),
            b=conv(8, 8),
            c=conv(8, 5),
        )

    return make


def paths(model):
    """Of a whole image, followed, and of a corner of it."""
    image, path = torch.rand(1, 3, LARGE, LARGE).double(), Path()
    record = trace(model, lambda: model(image))
    with WatchCalls(path):
        model(image[..., :64, :64])
    return record.path, path


@pytest.mark.parametrize('function', ASKING)
def test_numbers_that_only_large_images_ask_for(build, function):
    large, small = paths(build(function))
    assert large.asks_alone(small)
    assert not large.asks_alone(large)


def test_instructions_are_the_same_when_they_have_become_faster(build):
    """From 3.11 on Python adapts those of functions that have run often."""
    model = build(helper)
    image = torch.rand(1, 3, LARGE, LARGE).double()
    first = trace(model, lambda: model(image)).path
    for _ in range(20):
        model(image)
    path = Path()
    with WatchCalls(path):
        model(image)
    assert first.calls.keys() <= path.calls.keys()


@pytest.mark.parametrize('function', [position, whole])
def test_other_paths_ask_for_none(build, function):
    large, small = paths(build(function))
    assert large.asking
    assert not large.asks_alone(small)


@pytest.mark.parametrize('function', ASKING)
def test_what_large_images_compute_is_tried(build, function):
    """On a corner alone, masked and narrow would be taken for equal."""
    model = build(function)
    image = torch.rand(1, 3, LARGE, LARGE).double()
    pruner = attach(model, image)
    mask = pruner.mask
    mask[::4] = False  # six of eight are left
    pruner.set_mask(mask)
    model.eval()
    expected = model(image).detach()
    found = narrow(model, pruner.plan())(image)
    torch.testing.assert_close(found, expected)
