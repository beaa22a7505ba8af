# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Blocks repeat the numbers of their layers after narrowing as before."""

import pytest
from torch import nn

from mmlapp.core.narrowing.follow_layers import follow_layers, widths


class Block(nn.Module):
    def __init__(self, number, layers, name='groups'):
        super().__init__()
        setattr(self, name, number)
        self.layers = nn.ModuleList(layers)


def depthwise(width):
    return nn.Conv2d(width, width, 3, groups=width)


def test_all_layers_have_the_same_new_number():
    block = Block(8, [depthwise(8), depthwise(8), depthwise(4)])
    dense = widths(block)
    block.layers[0].groups = block.layers[1].groups = 5
    follow_layers(dense)
    assert block.groups == 5


@pytest.mark.parametrize('numbers', [(5, 6), (5, 8), (8, 8)])
def test_layers_that_differ_tell_nothing(numbers):
    block = Block(8, [depthwise(8), depthwise(8)])
    dense = widths(block)
    for layer, number in zip(block.layers, numbers, strict=True):
        layer.groups = number
    follow_layers(dense)
    assert block.groups == 8


def test_a_number_that_has_changed_is_left_alone():
    block = Block(8, [depthwise(8), depthwise(4)])
    dense = widths(block)
    # By the plan; another layer has had the new number all the time.
    block.groups, block.layers[0].groups, block.layers[1].groups = 4, 5, 3
    follow_layers(dense)
    assert block.groups == 4


def test_a_number_without_a_layer_stays():
    block = Block(8, [nn.Linear(3, 2)])
    follow_layers(widths(block))
    assert block.groups == 8


def test_what_the_forward_reads_stays():
    class Reading(Block):
        def forward(self, x):
            return x.view(self.groups, -1)

    block = Reading(8, [depthwise(8)])
    dense = widths(block)
    block.layers[0].groups = 5
    follow_layers(dense)
    assert block.groups == 8


def test_new_layers_inside_are_not_asked():
    block = Block(8, [depthwise(8)])
    dense = widths(block)
    block.layers[0].groups = 5
    block.layers.append(depthwise(8))
    follow_layers(dense)
    assert block.groups == 5


@pytest.mark.parametrize('name', ['width', 'mid_channels', 'embed_dims'])
def test_a_number_of_another_name_follows_all_layers(name):
    block = Block(8, [depthwise(8), nn.BatchNorm2d(8)], name)
    dense = widths(block)
    conv, norm = block.layers
    conv.in_channels = conv.out_channels = conv.groups = 5
    follow_layers(dense)
    assert getattr(block, name) == 8  # the norm has still as many
    norm.num_features = 5
    follow_layers(dense)
    assert getattr(block, name) == 5


def test_a_number_that_counts_something_else_stays():
    block = Block(8, [nn.Linear(8, 8)], 'num_heads')
    dense = widths(block)
    block.layers[0].in_features = block.layers[0].out_features = 5
    follow_layers(dense)
    assert block.num_heads == 8
