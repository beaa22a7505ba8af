# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core.methods.lapp.surrogates import SURROGATES
from mmlapp.core.methods.lapp.thresholds import HardMask
from mmlapp.core.segments import Segments

PARTS = Segments([3, 5])


@pytest.mark.parametrize('name', list(SURROGATES))
def test_gradients_of_the_mask(name):
    """The hard step with the derivative of the relaxed one, by autograd."""
    surrogate = SURROGATES[name](0.8)
    scores, weight = torch.rand(2, 8, dtype=torch.float64)
    threshold = torch.tensor([0.4, 0.6]).double().requires_grad_()
    margin = scores - threshold[PARTS.owner]
    hard = (margin > 0).double()
    relaxed = surrogate.relaxed(margin)
    reference = hard + relaxed - relaxed.detach()
    mask = HardMask.apply(
        threshold, hard > 0, surrogate.slope(margin.detach()), PARTS
    )
    torch.testing.assert_close(mask, reference)
    (found,) = torch.autograd.grad((mask * weight).sum(), threshold)
    (expected,) = torch.autograd.grad((reference * weight).sum(), threshold)
    torch.testing.assert_close(found, expected)
    assert (expected != 0).all()
