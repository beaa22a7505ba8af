# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core.mask.gate import ApplyGate, LookUp, at_channels


@pytest.mark.parametrize('dim', [0, 1])
def test_gradients_of_a_masked_parameter(source, dim):
    """As autograd has them for the product."""
    shape = (8, 3, 2) if dim == 0 else (3, 8, 2)
    parameter = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64)
    view = [1, 1, 1]
    view[dim] = 8
    masked = ApplyGate.apply(parameter, source.factor, dim)
    reference = parameter * source.factor.view(view)
    torch.testing.assert_close(masked, reference)
    inputs = (parameter, source.factor)
    found = torch.autograd.grad((masked * weight).sum(), inputs)
    expected = torch.autograd.grad((reference * weight).sum(), inputs)
    torch.testing.assert_close(found, expected)
    assert (expected[1] != 0).all()


def test_a_gate_that_nobody_asks_for_costs_nothing(source):
    gate = source.factor.detach()
    parameter = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    masked = ApplyGate.apply(parameter, gate, 0)
    masked.sum().backward()
    assert gate.grad is None
    assert torch.equal(parameter.grad, gate[:, None].expand(8, 3))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_stays(source, dtype):
    gate = source.factor.detach().float().requires_grad_()
    parameter = torch.randn(8, 3).to(dtype).requires_grad_()
    masked = ApplyGate.apply(parameter, gate, 0)
    assert masked.dtype == dtype
    masked.sum().backward()
    assert (parameter.grad.dtype, gate.grad.dtype) == (dtype, torch.float32)


def test_indices_without_a_channel_are_kept():
    gate = torch.tensor([0.0, 0.5, 1.0])
    channels = torch.tensor([1, -1, 0, 2, -1])
    assert at_channels(gate, channels).tolist() == [0.5, 1, 0, 1, 1]
    living = at_channels(gate > 0, channels)
    assert living.tolist() == [True, True, False, True, True]


def test_gradients_of_what_is_looked_up(source):
    """Several indices of a channel, and some of none, by differences."""
    places = torch.tensor([3, 8, 2, 8, 3, 3, 0, 5])
    assert torch.autograd.gradcheck(LookUp.apply, (source.factor, places))
