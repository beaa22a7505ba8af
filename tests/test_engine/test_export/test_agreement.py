# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from rounding import Equal, nearly_equal
from torch import nn

from mmlapp.engine.export.agreement import MOST, Agreement, Reference, worst


@pytest.fixture
def reference():
    """Four pixels of two images are torn between five and zero: eight.

    The most that may be others are 32, not more than a thousandth of 64000.
    """
    return Reference(Equal(), nearly_equal(4, width=32_000))


def flipped(reference, count):
    found = reference.outputs[0].clone()
    found.view(-1)[:count] = 5 - found.view(-1)[:count]
    return [found]


def test_rounding_decides(reference):
    (single,), (double,) = reference.outputs, reference.exact
    assert int(single.sum()) == 8 * 5
    assert int(double.sum()) == 0


@pytest.mark.parametrize('count', [1, 8, 8 * MOST])
def test_as_few_values_as_rounding_decides_about_are_spared(reference, count):
    found = reference.compared(flipped(reference, count), 1e-3)
    assert found == Agreement(0, count)


def test_more_values_are_an_error(reference):
    found = reference.compared(flipped(reference, 8 * MOST + 1), 1e-3)
    assert found == Agreement(1)


def test_a_larger_share_is_an_error():
    """Of 20000 values 20 may be others, not 21."""
    reference = Reference(Equal(), nearly_equal(4, width=10_000))
    assert reference.compared(flipped(reference, 20), 1e-3).undecided == 20
    found = reference.compared(flipped(reference, 21), 1e-3)
    assert found == Agreement(1)


def test_all_others_are_compared(reference):
    (found,) = flipped(reference, 1)
    found += 2e-3  # a relative error of 4e-4
    agreement = reference.compared([found], 1e-3)
    assert agreement.error == pytest.approx(4e-4, rel=1e-3)
    assert agreement.undecided == 1


def test_where_nothing_is_torn_nothing_is_spared():
    images = torch.rand(1, 3, 2, 2)
    reference = Reference(nn.Identity(), images)
    other = images.clone()
    other[0, 0, 0, 0] += 1
    expected = float(1 / images.max())
    found = reference.compared([other], 1e-3)
    assert found.error == pytest.approx(expected)
    assert found.undecided == 0


class Positive(nn.Module):
    def forward(self, x):
        return x > 0


class Single(nn.Module):
    def forward(self, x):
        if x.dtype != torch.float32:
            raise RuntimeError('no kernel')
        return x


@pytest.mark.parametrize(
    ('network', 'change', 'error'),
    [
        (Single(), lambda x: 2 * x, 1.0),  # nothing to compare with
        (nn.Identity(), lambda x: x[:1], math.inf),
        (Positive(), lambda x: x < 0, 1.0),
        (nn.Identity(), lambda x: x * math.nan, math.nan),
        (nn.Identity(), lambda x: x, 0.0),
    ],
)
def test_what_is_no_matter_of_rounding(network, change, error):
    images = torch.rand(2, 3, 2, 2)
    found = Reference(network, images).compared([change(images)], 1e-3)
    assert found.error == pytest.approx(error, nan_ok=True)
    assert found.undecided == 0


def test_the_worst_of_several_batches():
    found = worst([Agreement(0.1, 2), Agreement(0.3), Agreement(0.2, 1)])
    assert found.error == pytest.approx(0.3)
    assert found.undecided == 3
    assert math.isnan(worst([Agreement(0.1), Agreement(math.nan)]).error)
