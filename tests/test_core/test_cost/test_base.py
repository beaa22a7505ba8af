# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError, attach
from mmlapp.core.cost import COSTS, MultilinearCost, register_cost, term_of


def test_costs_of_the_product_are_there():
    assert {'flops', 'parameters'} <= set(COSTS)


def test_a_cost_with_settings(model, images):
    """Elements of all activations, which a target can name."""

    @register_cost('test_activations')
    class Activations(MultilinearCost):
        def __init__(self, context, power=1):
            sizes = [torch.Size(c.outputs).numel() for c in context.calls]
            terms = [
                term_of(call, size**power)
                for call, size in zip(context.calls, sizes, strict=True)
            ]
            dense = sum(term.dense for term in terms)
            super().__init__(terms, context.groups, dense)

    costs = ['flops', dict(type='test_activations', power=2)]
    pruner = attach(model, images, costs=costs)
    assert set(pruner.ratios()) == {'flops', 'test_activations'}
    positions = 4 * 8 * 8
    sizes = [positions * width for width in (8, 12, 16, 5)]
    dense = sum(size**2 for size in sizes)
    assert pruner.cost('test_activations').dense == dense
    pruner.begin({'test_activations': 0.5}, 1)
    pruner.step()
    assert 0.45 < pruner.ratios()['test_activations'] <= 0.5


def test_a_target_without_its_cost(model, images):
    pruner = attach(model, images, costs=['flops'])
    with pytest.raises(PruningError, match=r'target parameters=0\.5.*flops;'):
        pruner.begin({'parameters': 0.5}, 1)


def test_an_unknown_cost(model, images):
    with pytest.raises(PruningError, match="cost='speed' is unknown"):
        attach(model, images, costs=['speed'])
    assert not hasattr(model, 'pruner')
