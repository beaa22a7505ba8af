# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Names that a forward reads, directly or through methods it calls."""

import functools

from torch import nn

from mmlapp.core.forward_names import forward_names


def decorated(function):
    @functools.wraps(function)
    def run(*args):
        return function(*args)

    return run


class Base(nn.Module):
    def helper(self, x):
        return x * self.through_helper

    @property
    def scale(self):
        return self.through_property

    def export(self):
        return self.elsewhere


class Block(Base):
    @decorated
    def forward(self, x):
        def inner(y):
            return y + self.inside

        return self.helper(inner(x)) * self.direct * self.scale


def test_what_forward_reads_is_found_wherever_it_does():
    read = {'direct', 'inside', 'through_helper', 'through_property'}
    assert read <= forward_names(Block())


def test_what_other_methods_read_is_not():
    assert 'elsewhere' not in forward_names(Block())


def test_what_a_method_goes_on_with_is_read_too():
    class Heir(Block):
        def forward(self, x):
            return super().forward(x) + self.added

        def helper(self, x):
            return x * self.instead

    names = forward_names(Heir())
    assert {'added', 'direct', 'inside', 'instead'} <= names
    assert 'through_helper' not in names


def test_recursion_ends():
    class Loop(nn.Module):
        def forward(self, x):
            return self.forward(x) + self.width

    assert 'width' in forward_names(Loop())


def test_a_method_that_an_object_chose_is_its_forward():
    class Choosing(nn.Module):
        def __init__(self):
            super().__init__()
            self.forward = self.forward_sliced

        def forward_sliced(self, x):
            return x[:, : self.width]

    assert 'width' in forward_names(Choosing())
