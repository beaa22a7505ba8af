# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.engine.export.outputs import (
    checked_names,
    flat,
    key_names,
    outputs_of,
)


def test_outputs_are_those_of_the_network_in_order(net, images):
    with torch.no_grad():
        found = net(images)
    expected = [found['logits'], *found['features']]
    for outputs in (outputs_of(net, images), list(flat(net)(images))):
        assert all(map(torch.equal, outputs, expected))
        assert len(outputs) == 2


def test_half_precision_is_inside_a_copy(net, images):
    expected = outputs_of(net, images)
    found = outputs_of(flat(net, half=True), images)
    for half, full in zip(found, expected, strict=True):
        assert half.dtype == torch.float32
        # Rounded to 11 bits.
        assert not torch.equal(half, full)
        torch.testing.assert_close(half, full, atol=1e-2, rtol=1e-2)
    assert net.conv.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ('keys', 'names'),
    [
        (['a b', 'a/b', 'a_b'], ['a_b', 'a_b_1', 'a_b_2']),
        (['1', 2, None, ''], ['output_1', 'output_2', 'None', 'output_']),
        (['猫', '犬'], ['output__', 'output___1']),
        (['image', 'image_1'], ['image_1', 'image_1_1']),
    ],
)
def test_names_by_keys_are_identifiers_and_differ(keys, names):
    output = dict.fromkeys(keys, torch.ones(1))
    assert key_names(output, ['image']) == names


def test_names_that_nobody_gave():
    assert checked_names(None, 1) == ['output']
    assert checked_names(None, 2) == ['output_0', 'output_1']


@pytest.mark.parametrize('names', [['a'], ['a', 'a'], ['a', 'b', 'c']])
def test_every_output_has_a_name_of_its_own(names):
    assert checked_names(['b', 'a'], 2) == ['b', 'a']
    with pytest.raises(PruningError, match='expected 2 different ones'):
        checked_names(names, 2)
