# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A state that no pruner has written changes nothing."""

import copy

import pytest
import torch

from mmlapp.core import Phase, PruningError, attach, narrow
from mmlapp.core.pruner.saved import read_phase, read_progress
from mmlapp.core.pruner.stability import StableEnd

INF, NAN = float('inf'), float('nan')


def state_of(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def assert_untouched(model, before):
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def changed(tensor, value):
    """One entry of a long tensor, or another tensor, or none."""
    if value is None or isinstance(value, str):
        return value
    value = torch.tensor(value)
    if len(value) == 1 and not value.is_complex():
        value = torch.cat([value, tensor.flatten()[1:]])
    return value


@pytest.fixture
def begun(pruner):
    pruner.begin({'flops': 0.5}, 20, end=StableEnd(epoch=2))
    pruner.stability = pruner.stability.noted(pruner.mask)
    return pruner


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('gate', [NAN]),
        ('gate', [2.0]),
        ('gate', [-0.5]),
        ('progress', [3, 1, 20, 0.5, 0]),
        ('progress', [NAN, 1, 20, 0.5, 0]),
        ('progress', [1, 21, 20, 0.5, 0]),
        ('progress', [1, 1, INF, 0.5, 0]),
        ('progress', [1, 1, 20, NAN, 0]),
        ('progress', [1, 1, 20, 2.0, 0]),
        ('progress', []),
        ('stable_end', [0, 0.9]),
        ('stable_end', [NAN, 0.9]),
        ('stable_end', [2, 1.5]),
        ('stable_end', [2, 0.9, 1]),
        ('kept_sets', [1, 0]),
        ('gate', 'a text'),
        ('progress', 'a text'),
        ('progress', [1j]),
        ('gate', [1j]),
        ('gate', [1.0, 0.0]),
        ('gate', None),
    ],
)
@pytest.mark.parametrize('whole', [True, False])
def test_what_is_damaged_changes_nothing(begun, model, name, value, whole):
    """Weights lie before the pruner; the gate itself before its progress."""
    owner, key = (model, f'pruner.{name}') if whole else (begun, name)
    before, state = state_of(model), state_of(owner)
    state['a.weight' if whole else 'scores'] += 1
    state[key] = changed(state[key], value)
    with pytest.raises(PruningError, match=rf'^{key} of the state dict'):
        owner.load_state_dict(state)
    assert_untouched(model, before)


UNREAL = {
    'sparse': torch.Tensor.to_sparse,
    'small': lambda value: value.to(torch.float8_e4m3fn),
    'nested': lambda value: torch.nested.nested_tensor([value]),
    'quantised': lambda value: torch.quantize_per_tensor(
        value.float(), 0.1, 0, torch.qint8
    ),
}


@pytest.mark.parametrize('name', ['gate', 'progress'])
@pytest.mark.parametrize('kind', UNREAL)
@pytest.mark.filterwarnings(
    'ignore::UserWarning', 'ignore::DeprecationWarning'
)
def test_numbers_that_nobody_compares_are_refused(begun, model, name, kind):
    before = state_of(model)
    state = {
        **before,
        f'pruner.{name}': UNREAL[kind](before[f'pruner.{name}']),
    }
    match = rf'^pruner.{name} of the state dict is a tensor of '
    with pytest.raises(PruningError, match=match):
        begun.read(state, 'pruner.')
    assert_untouched(model, before)


def test_a_state_without_its_other_half(begun, model):
    before, state = state_of(model), state_of(model)
    del state['pruner.kept_sets']
    with pytest.raises(PruningError, match=r'kept_sets .* is NoneType'):
        model.load_state_dict(state)
    assert_untouched(model, before)


def test_other_costs_are_named(make, images, model, pruner):
    other = make()
    attach(other, images, costs=['flops'])
    before = state_of(other)
    text = r"5 numbers, expected .* costs \['flops'\]: .*Give attach the same"
    with pytest.raises(PruningError, match=text):
        other.load_state_dict(model.state_dict())
    assert_untouched(other, before)


def test_what_was_written_is_read(begun):
    state = begun.state_dict()
    found = read_phase(state, '', begun.costs, len(begun.gate))
    assert found.progress == begun.progress
    assert found.stability.end == StableEnd(epoch=2)
    assert torch.equal(found.stability.kept, begun.stability.kept)
    assert read_progress('progress', state['progress']).phase == Phase.PRUNING
    assert read_phase({}, '', begun.costs, len(begun.gate)) is None


def test_copies_check_for_themselves(model, pruner):
    twin = copy.deepcopy(model)
    state, before = state_of(twin), state_of(model)
    state['pruner.gate'][0] = NAN
    state['a.weight'] += 1
    with pytest.raises(PruningError, match=r'pruner\.gate'):
        twin.load_state_dict(state)
    assert_untouched(twin, before)
    mask = torch.arange(len(pruner.gate)) > 0
    twin.pruner.set_mask(mask)
    narrow(twin, twin.pruner.plan())
    twin.load_state_dict(twin.state_dict())
    assert not twin._load_state_dict_pre_hooks


def test_a_network_that_is_narrowed_while_it_loads(model, images, pruner):
    """By a hook of its own, while torch walks through all of them."""
    pruner.set_mask(torch.arange(len(pruner.gate)) > 0)
    plan = pruner.plan()
    expected = narrow(copy.deepcopy(model), plan)
    for _ in range(2):  # others may follow
        model._register_load_state_dict_pre_hook(
            lambda *args: (
                narrow(model, plan) if model.a.out_channels == 8 else 0
            )
        )
    model.load_state_dict(expected.state_dict())
    torch.testing.assert_close(model(images), expected(images))
    attach(model, images)
    model.load_state_dict(model.state_dict())
