# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy

from torch import nn

from mmlapp.core.mixins import mix_in, take_off


class Loud:
    def forward(self, x):
        return super().forward(x) + 1


def test_a_mixin_comes_before_the_class_and_goes_again():
    layer = nn.Identity()
    mix_in(layer, Loud)
    assert layer(1) == 2
    assert type(layer).__name__ == 'Identity'
    assert type(layer).__module__ == nn.Identity.__module__
    layer.__dict__['_noise'] = 3
    take_off(layer, Loud, '_noise')
    assert type(layer) is nn.Identity
    assert layer(1) == 1
    assert '_noise' not in layer.__dict__


def test_other_modules_keep_their_class():
    layer = nn.Identity()
    mix_in(layer, Loud)
    assert nn.Identity()(1) == 1
    assert copy.deepcopy(layer)(1) == 2
    take_off(nn.Identity(), Loud)  # harmless


def test_equal_classes_are_made_once():
    one, two = nn.Identity(), nn.Identity()
    for layer in (one, two):
        mix_in(layer, Loud)
    assert type(one) is type(two)
