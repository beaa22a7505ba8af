# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights by other names, which MMEngine leaves out."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from mmlapp.core import PruningError, attach
from mmlapp.engine.checkpoints.checked_loading import check_loading
from mmlapp.engine.models.plans import carry_plans, narrow_model
from mmlapp.engine.models.weight_names import (
    check_shapes,
    refusing_misfits,
    rename_compiled,
    weights_of,
)

MakeRunner = Callable[..., Runner]
State = dict[str, Any]


def net() -> nn.Module:
    layers: dict[str, nn.Module] = {
        'stem': nn.Conv2d(3, 8, 3),
        'norm': nn.BatchNorm2d(8),
        'head': nn.Conv2d(8, 4, 3),
    }
    model = nn.Module()
    model.add_module('backbone', nn.Sequential())
    for name, layer in layers.items():
        model.backbone.add_module(name, layer)  # type: ignore[union-attr]
    return model


def renamed(change: Callable[[str], str], state: State) -> State:
    return {change(name): value for name, value in state.items()}


def without_first(name: str) -> str:
    return name.partition('.')[2]


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (lambda n: f'model.{n}', r"Without 'model\.' they are those of"),
        (lambda n: f'ema.net.{n}', r"Without 'ema\.net\.' they are those"),
        (without_first, r"With 'backbone\.' before them .* init_cfg of"),
        (lambda n: f'{n}_g', r'Give a checkpoint of this architecture'),
    ],
)
def test_what_is_named_otherwise_is_refused(
    change: Callable[[str], str], told: str
) -> None:
    weights = renamed(change, net().state_dict())
    text = rf'^the weights .*: 0 of them fit this Module, and 9 do.*{told}'
    model = net()
    with refusing_misfits([model]):
        with pytest.raises(PruningError, match=text):
            load_state_dict(model, weights)
        load_state_dict(model, net().state_dict())
    load_state_dict(model, weights)  # as MMEngine does, which logs it


@pytest.mark.parametrize(
    'keep',
    [
        lambda n: 'stem' in n,  # a part of the model
        lambda n: True,
        lambda n: n == 'backbone.norm.weight',
    ],
)
@pytest.mark.parametrize('more', [0, 9])
def test_what_fits_in_part_is_loaded(
    keep: Callable[[str], bool], more: int
) -> None:
    weights = {k: v for k, v in net().state_dict().items() if keep(k)}
    others = {f'teacher.{i}': torch.ones(1) for i in range(more)}
    model = net()
    with refusing_misfits([model]):
        load_state_dict(model, {**weights, **others})
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value)


def test_a_part_is_not_asked_for_the_whole() -> None:
    """Its names are others there."""
    whole = nn.ModuleDict({'student': net(), 'teacher': net()})
    weights = {
        name: value
        for name, value in whole.state_dict().items()
        if name.startswith('teacher')
    }
    with refusing_misfits(whole.values()):
        load_state_dict(whole, {**weights, 'student.other': torch.ones(1)})


class Converting(nn.Module):
    """Gives the names of a file those of its own, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def _load_from_state_dict(self, state_dict: State, *args: Any) -> None:
        for name in [n for n in state_dict if n.startswith('old.')]:
            value = state_dict.pop(name)
            state_dict[name.replace('old', 'inner')] = value
        super()._load_from_state_dict(state_dict, *args)


def test_what_a_model_renames_itself_is_its_own() -> None:
    model = Converting()
    weights = {'old.weight': torch.ones(2, 2), 'old.bias': torch.ones(2)}
    with refusing_misfits([model]):
        load_state_dict(model, weights)
    assert model.inner.bias.tolist() == [1, 1]


COMPILED: dict[str, Callable[[str], str]] = {
    'whole': lambda n: f'_orig_mod.{n}',
    'part': lambda n: n.replace('backbone.', 'backbone._orig_mod.'),
    'wrapped': lambda n: f'module._orig_mod.{n}',
    'within': lambda n: f'_orig_mod.module.{n}',
}


@pytest.mark.parametrize('kind', COMPILED)
def test_names_of_compiled_models(kind: str) -> None:
    expected = net().state_dict()
    weights = renamed(COMPILED[kind], expected)
    checkpoint = {'state_dict': weights}
    assert weights_of(checkpoint).keys() == expected.keys()
    # MMEngine takes off the rest when it loads.
    left = {name.removeprefix('module.') for name in weights}
    assert left == expected.keys()


@pytest.mark.parametrize(
    ('weights', 'text'),
    [
        ([], 'is a list: expected tensors by name'),
        (torch.ones(1), 'is a Tensor: expected tensors by name'),
        ({}, 'is empty: give one with weights'),
    ],
)
def test_a_checkpoint_without_weights_is_refused(
    weights: Any, text: str
) -> None:
    with pytest.raises(PruningError, match=f'the checkpoint {text}'):
        weights_of({'state_dict': weights})


def test_what_torch_calls_a_compiled_model() -> None:
    # As torch.compile makes it, which would import the compiler.
    weights = OptimizedModule(net(), lambda function: function).state_dict()
    assert all(name.startswith('_orig_mod.') for name in weights)
    rename_compiled(weights)
    net().load_state_dict(weights)


def prunable() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    carry_plans(model, [(f'{i}.weight', [0, 1]) for i in (0, 1)])
    pruner.begin({'flops': 0.5}, 1)
    return model


@pytest.mark.parametrize('narrow', [True, False])
@pytest.mark.parametrize('load', [load_state_dict, nn.Module.load_state_dict])
def test_a_prunable_model_takes_them_from_whoever_loads(
    narrow: bool, load: Callable[..., Any]
) -> None:
    """Masks and plans are found behind the names of the compiler, too."""
    first: Any = prunable()
    first.pruner.finish()
    if narrow:
        narrow_model(first, first.pruner.plan())
    expected = first.state_dict()
    second = prunable()
    load(second, renamed(COMPILED['whole'], expected))
    found = second.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize('load', [load_state_dict, nn.Module.load_state_dict])
def test_a_prunable_model_refuses_others_from_whoever_loads(
    load: Callable[..., Any],
) -> None:
    weights = renamed(lambda n: f'model.{n}', net().state_dict())
    model = pickle.loads(pickle.dumps(copy.deepcopy(prunable())))
    with pytest.raises(PruningError, match='0 of them fit this Sequential'):
        load(model, weights)
    # Of an average it is a part.
    average = ExponentialMovingAverage(prunable())
    with pytest.raises(PruningError, match='0 of them fit this Sequential'):
        load(average.module, weights)
    load(average, average.state_dict())


def test_masks_alone_are_loaded() -> None:
    model: Any = prunable()
    state = model.pruner.state_dict(prefix='pruner.')
    model.load_state_dict(state, strict=False)
    load_state_dict(model, state)


def test_names_that_fit_with_other_shapes() -> None:
    """Of such weights nothing would be left; one that fits is a start."""
    model = net()
    weights = {n: v[:1] for n, v in model.state_dict().items() if v.ndim}
    text = r'0 have its .*\.stem\.weight of shape \(1, 3, 3, 3\), .* \(8, 3'
    with pytest.raises(PruningError, match=text):
        check_shapes(model, weights)
    check_shapes(model, {**weights, 'backbone.norm.bias': torch.ones(8)})
    check_shapes(model, model.state_dict())
    check_shapes(model, {'other': torch.ones(1), 'backbone.norm': 3})


def test_an_empty_checkpoint() -> None:
    for checkpoint in ({}, {'state_dict': {}}):
        with pytest.raises(PruningError, match='checkpoint is empty: give'):
            weights_of(checkpoint)


def load_from(path: Path, **settings: Any) -> Any:
    def change(config: State) -> None:
        config.update(load_from=str(path), **settings)

    return change


def test_runs_refuse_weights_that_are_not_theirs(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """Whatever pruned or not; what compilation has named otherwise is theirs.

    A test fails as training does, before its first batch.
    """
    paths = tmp_path / 'a.pth', tmp_path / 'b.pth'
    for plain in (True, False):
        runner = make_runner(load_from(paths[0]), plain=plain)
        check_loading(runner)
        state = {n: v + 1 for n, v in runner.model.state_dict().items()}
        torch.save(renamed(lambda n: f'model.{n}', state), paths[0])
        with pytest.raises(PruningError, match=r"Without 'model\.' they are"):
            runner.load_or_resume()
        state = {n: v - 1 for n, v in state.items()}
        torch.save({'state_dict': renamed(COMPILED['whole'], state)}, paths[1])
        runner.load_checkpoint(str(paths[1]))
        found = runner.model.state_dict()
        assert all(torch.equal(found[n], state[n]) for n in state)


def test_pretrained_weights_of_another_part(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    """MMEngine would leave out all of them and train from random ones."""
    state = make_runner().model.state_dict()
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': state}, path)

    def change(prefix: str | None) -> Any:
        init = dict(type='Pretrained', checkpoint=str(path), prefix=prefix)

        def run(config: State) -> None:
            config['model']['backbone']['init_cfg'] = init

        return run

    runner = make_runner(change('backbone.'))
    check_loading(runner)
    runner._init_model_weights()
    found = runner.model.backbone.state_dict()
    assert all(torch.equal(found[n], state[f'backbone.{n}']) for n in found)
    runner = make_runner(change(None))
    check_loading(runner)
    with pytest.raises(PruningError, match='0 of them fit this CIFARResNet'):
        runner._init_model_weights()
