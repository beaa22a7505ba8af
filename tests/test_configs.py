# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every config loads, builds, bears its name and stands in its model zoo."""

import copy
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmlapp.core import LAPP, Pruner
from mmlapp.core.methods import METHODS
from mmlapp.core.score import SCORES
from mmlapp.engine import equal_cost

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)
PRUNED = [path for path in CONFIGS if re.match('[a-z0-9-]+-flops', path.name)]
# Go on from a pruned network.
SECOND = [path for path in PRUNED if '-refined_' in path.name]
# Arguments of `PrunableModel` that are no part of the network.
SETTINGS = (
    'scope',
    'unit',
    'ignore',
    'keep_streams',
    'input_shape',
    'divisor',
    'method',
    'score',
    'normalisation',
    'min_keep',
    'protect',
)
# Two blocks stand for twelve. Maps of smaller images are no smaller than such
# windows, of 7 in the config.
SMALLER = {
    'deit-tiny': dict(
        arch=dict(
            embed_dims=192,
            num_layers=2,
            num_heads=3,
            feedforward_channels=768,
        )
    ),
    'tiny': dict(
        arch=dict(
            embed_dims=96, depths=[2, 2, 2, 2], num_heads=[3, 6, 12, 24]
        ),
        window_size=2,
    ),
}
FAMILIES = sorted({path.parent for path in CONFIGS})
# MMDetection warns of its own attribute.
pytestmark = pytest.mark.filterwarnings(
    'ignore:DeprecationWarning. `num_anchors`:UserWarning'
)
ZOO = [path.parent for path in sorted(ROOT.glob('configs/*/metafile.yml'))]


@cache
def parse(path: Path) -> Config:
    return Config.fromfile(path)


def load(path: Path) -> Config:
    """Read a config once and give a copy that may be changed."""
    return copy.deepcopy(parse(path))


def name_of(path: Path) -> str:
    return path.stem


@cache
def parent_of(path: Path) -> tuple[str, Config]:
    """Name and content of the dense config that a config inherits."""
    found = re.search(r"^_base_ = '(.+)'$", path.read_text(), re.MULTILINE)
    assert found, f'{path.name} inherits more or less than one config'
    source = found[1]
    if '::' in source:
        return Path(source.split('::')[1]).stem, get_config(source)
    inherited = path.parent / source
    if inherited.parent.name == 'pruned':  # shared by the methods
        return parent_of(inherited)
    return inherited.stem, load(inherited)


def build_model(cfg: Config) -> BaseModel:
    """Build as the Runner does."""
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(cfg.model)


def test_names_are_unique() -> None:
    """MIM looks for a config by its name alone, in `_base_` too."""
    names = [path.name for path in (ROOT / 'configs').rglob('*.py')]
    assert len(names) == len(set(names)) > 30


@pytest.fixture(scope='module')
def built() -> set[str]:
    """Networks, ways to prune and optimizers that were built before.

    Configs are combinations of few of them: each is built once at least.
    """
    return set()


def parts(path: Path, cfg: Config) -> set[str]:
    """All of a config on which what is built, and asked of it, depends."""
    hook, model = cfg.get('custom_hooks', [{}])[-1], cfg.model.to_dict()
    how = {name: model.pop(name, None) for name in SETTINGS}
    # These two suit the network, whatever prunes it.
    size = how.pop('input_shape'), how.pop('divisor')
    return {
        repr([cfg.default_scope, model, size, cfg.get('data_preprocessor')]),
        repr([path in PRUNED, hook.get('target'), how]),
        repr(cfg.optim_wrapper),
    }


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_model_and_optimizer_build(path: Path, built: set[str]) -> None:
    cfg = load(path)
    new = parts(path, cfg) - built
    if not new:
        return
    if 'input_shape' in cfg.model:
        # One image of COCO's size takes many seconds.
        channels, *sides = cfg.model.input_shape
        arch = str(cfg.model.backbone.get('arch'))
        cfg.model.input_shape = (channels, *(min(s, 64) for s in sides))
        cfg.model.backbone.update(SMALLER.get(arch, {}))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg)
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert isinstance(model, BaseModel)
    assert hasattr(model, 'pruner') == (path in PRUNED)
    assert optim_wrapper.optimizer.param_groups
    if path in PRUNED:
        target = cfg.custom_hooks[-1].target['flops']
        lands_within_a_point(model.pruner, target)
    built |= new


def lands_within_a_point(pruner: Pruner, target: float) -> None:
    """Whatever thresholds, or scores of data, were at its end."""
    if pruner.scorer.score.batches:
        pruner.scorer.score, pruner.scorer.prepared = SCORES.build('l1'), True
    pruner.begin({'flops': target}, 1000)
    if isinstance(pruner.method, LAPP):
        with torch.no_grad():
            pruner.method.threshold.uniform_(0.1, 0.9)
    pruner.finish()
    assert target - 0.01 < pruner.ratios()['flops'] <= target


@pytest.mark.parametrize('path', CONFIGS, ids=name_of)
def test_data_and_schedule_are_complete(path: Path) -> None:
    cfg = load(path)
    assert cfg.default_scope in ('mmpretrain', 'mmdet')
    assert cfg.train_cfg.max_epochs > 0
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert {'dataset', 'sampler', 'batch_size'} <= set(cfg[key])
        assert cfg[key].dataset.pipeline[-1].type.startswith('Pack')
    assert {'val_evaluator', 'test_evaluator', 'param_scheduler'} <= set(cfg)
    batch = re.search(r'_(?:\d+x)?b(\d+)[_-]', path.name)
    if batch:
        assert cfg.train_dataloader.batch_size == int(batch[1])


@pytest.mark.parametrize('path', PRUNED, ids=name_of)
def test_name_of_a_pruned_config_says_what_it_does(path: Path) -> None:
    parent, _ = parent_of(path)
    *others, hook = load(path).custom_hooks
    percent = round(hook.target['flops'] * 100)
    cost = '-equal-cost' if hook.get('train_cost') == 'dense' else ''
    taught = ''.join(TEACHERS.get(other['type'], '') for other in others)
    member = member_of(path)
    assert path.stem == f'{member}-flops{percent}{taught}{cost}_{parent}'


# Members of the family that are a score of the method `ranking`.
BY_SCORE = {
    'kl_divergence': 'curl',
    'cpmc': 'cpmc',
    'functionality': 'functionality',
}


def member_of(path: Path) -> str:
    """Name of the member of the family that a config prunes by."""
    score: Any = load(path).model.get('score', 'l2')
    name = score if isinstance(score, str) else score['type']
    return BY_SCORE.get(name, method_of(path).replace('_', '-'))


def method_of(path: Path) -> str:
    """Name of the method that a config prunes with."""
    method: Any = load(path).model.get('method', 'lapp')
    return method if isinstance(method, str) else method['type']


TEACHERS = {
    'mmlapp.Distiller': '-distilled',
    'mmlapp.LabelRefiner': '-refined',
}


def has_teacher(hook: Mapping[str, Any]) -> bool:
    return hook['type'] in TEACHERS


def test_the_teacher_is_what_the_dense_config_leaves() -> None:
    """Where tools/train.py writes the last checkpoint of the parent."""
    found = 0
    for path in PRUNED:
        for hook in filter(has_teacher, load(path).custom_hooks):
            parent, cfg = parent_of(path)
            name = f'epoch_{cfg.train_cfg.max_epochs}.pth'
            expected = f'work_dirs/{parent}/{name}'
            assert hook['teacher'] == dict(checkpoint=expected)
            found += 1
    assert found


@pytest.mark.parametrize(
    'path', [p for p in PRUNED if p not in SECOND], ids=name_of
)
def test_a_pruned_config_leaves_the_recipe_alone(path: Path) -> None:
    (_, parent), cfg = parent_of(path), load(path).to_dict()
    dense = parent.to_dict()
    *hooks, ours = cfg.pop('custom_hooks')
    hooks = [hook for hook in hooks if not has_teacher(hook)]
    assert hooks == dense.pop('custom_hooks', [])
    if member_of(path) in BY_SCORE.values():
        # At once, from what the parent leaves.
        name, _ = parent_of(path)
        epochs = cfg['train_cfg']['max_epochs']
        assert cfg.pop('load_from') == f'work_dirs/{name}/epoch_{epochs}.pth'
        assert ours['prune_iters'] == 1
        assert dense.pop('load_from') is None
    assert ours['type'] == 'mmlapp.PruningHook'
    assert ours['prune_epochs'] <= cfg['train_cfg']['max_epochs'] / 3
    assert cfg.pop('custom_imports') == dict(imports=['mmlapp'])
    dense.pop('custom_imports', None)
    assert cfg['optim_wrapper'].pop('type') == 'mmlapp.PruningOptimWrapper'
    dense['optim_wrapper'].pop('type', None)
    model = cfg['model']
    assert model['type'] == 'mmlapp.PrunableModel'
    model['type'] = model.pop('architecture')
    for key in SETTINGS:
        model.pop(key, None)
    if 'tenth' in path.stem and '-distilled_' in path.stem:
        mixing = dict(augments=dict(type='Mixup', alpha=1.0))
        assert model.pop('train_cfg') == mixing
    # What stays of a layer must adapt: all stages are trained.
    if dense['model']['backbone'].pop('frozen_stages', -1) >= 0:
        assert model['backbone'].pop('frozen_stages') == -1
    assert without_scope(cfg) == without_scope(dense)


@pytest.mark.parametrize('path', SECOND, ids=name_of)
def test_the_second_stage_goes_on_from_the_first(path: Path) -> None:
    """With CURL's schedule, and nothing else of the first stage changed."""
    cfg = load(path)
    first = path.with_name(path.name.replace('-refined_', '-distilled_'))
    before = load(first)
    epochs = before.train_cfg.max_epochs
    assert cfg.load_from == f'work_dirs/{first.stem}/epoch_{epochs}.pth'
    assert cfg.train_dataloader == before.train_dataloader
    assert cfg.custom_hooks[-1] == before.custom_hooks[-1]
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler.T_max == 16
    assert cfg.param_scheduler.type == 'CosineAnnealingLR'
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.model.get('train_cfg') is None


def test_a_tenth_of_the_images_has_all_classes_alike() -> None:
    """Of 5,000 images per class, one class after the other."""
    name = 'resnet20_b128_cifar10-folder-tenth-expanded'
    data = load(ROOT / f'configs/resnet/{name}.py').train_dataloader.dataset
    labels = np.array(data.dataset.indices) // 5000
    assert np.bincount(labels).tolist() == [500] * 10
    assert len(data.variants) == 6


def without_scope(value: object) -> object:
    """Drop the scopes that MMEngine notes when it reads another package."""
    if isinstance(value, dict):
        return {
            k: without_scope(v) for k, v in value.items() if k != '_scope_'
        }
    if isinstance(value, list | tuple):
        return [without_scope(item) for item in value]
    return value


def test_equal_cost_is_told_beside_the_config() -> None:
    name = 'lapp-flops40-equal-cost_resnet20_b128_cifar10-folder'
    cfg = equal_cost(load(ROOT / 'configs' / 'resnet' / f'{name}.py'))
    # 200 / (10 + 190 * 0.403) * 200 = 462.01
    assert cfg.train_cfg.max_epochs == 462
    assert cfg.param_scheduler.milestones == [231, 347]
    assert cfg.custom_hooks[-1].prune_epochs == pytest.approx(23.1)
    readme = (ROOT / 'configs' / 'resnet' / 'README.md').read_text()
    assert re.search(rf'`{name}` +\| +462 ', readme)


@pytest.mark.parametrize(
    ('dense', 'epochs'),
    [('resnet20_b128_cifar10-folder', 10), ('resnet18_8xb32_in1k', 5)],
)
def test_every_method_has_a_recipe_of_the_same_length(
    dense: str, epochs: int
) -> None:
    """But for the control with random rates, and the one that ends itself."""
    recipes = {
        member_of(path): load(path).custom_hooks[-1]
        for path in PRUNED
        if path.stem.endswith(f'-flops50_{dense}')
    }
    own = {n for n in METHODS if METHODS[n].__module__.startswith('mmlapp.')}
    names = {name.replace('_', '-') for name in own}
    assert {'lapp', 'random', *recipes} == {*names, *BY_SCORE.values()}
    assert recipes.pop('one-cycle').end == 'stable'
    assert {hook.prune_epochs for hook in recipes.values()} == {epochs}
    assert all(hook.target == dict(flops=0.5) for hook in recipes.values())


@pytest.mark.parametrize(
    'path', sorted(ROOT.glob('configs/_base_/pruned/*.py')), ids=name_of
)
def test_methods_that_are_compared_differ_in_nothing_else(path: Path) -> None:
    """But for what a method takes, when the phase ends, and what trains on."""
    found = set()
    for recipe in ROOT.glob(f'configs/*/*-{path.name}'):
        cfg = load(recipe).to_dict()
        cfg.pop('load_from')
        hook = cfg.pop('custom_hooks')[-1]
        cfg['model'] = {
            k: v
            for k, v in cfg['model'].items()
            if k not in SETTINGS or k == 'divisor'
        }
        found.add(repr([hook['target'], without_scope(cfg)]))
    assert len(found) == 1


def test_ratios_of_the_paper() -> None:
    targets = {
        path.stem: load(path).custom_hooks[-1].target['flops']
        for path in PRUNED
        if method_of(path) == 'lapp'
    }
    for name, target in targets.items():
        known = 0.403 if 'resnet20' in name else 0.5
        known = 0.444 if 'resnet18' in name else known
        assert target == known, name


@pytest.mark.parametrize('family', FAMILIES, ids=lambda path: path.name)
def test_readme_links_every_config(family: Path) -> None:
    readme = (family / 'README.md').read_text()
    for path in family.glob('*.py'):
        assert f'({path.name})' in readme


@pytest.mark.parametrize('family', ZOO, ids=lambda path: path.name)
def test_metafile_lists_every_config(family: Path) -> None:
    meta = yaml.safe_load((family / 'metafile.yml').read_text())
    collections = {item['Name'] for item in meta['Collections']}
    for item in meta['Collections']:
        assert (ROOT / item['README']).is_file()
    for item in meta['Models']:
        assert item['In Collection'] in collections
        assert item['Config'] == f'configs/{family.name}/{item["Name"]}.py'
        assert 'Weights' not in item, 'no weights are released'
    names = sorted(item['Name'] for item in meta['Models'])
    assert names == sorted(path.stem for path in family.glob('*.py'))


def test_folder_of_images(tmp_path: Path) -> None:
    """Classes are folders; channel 0 of what the network sees is red."""
    for split in ('train', 'test'):
        for label, name in enumerate(('a', 'b')):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            red = np.zeros((32, 32, 3), np.uint8)
            red[..., 2] = 200 + label
            cv2.imwrite(str(folder / '0.png'), red)
    cfg = load(ROOT / 'configs/resnet/resnet20_b128_cifar10-folder.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(cfg)
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.data_root = str(tmp_path)
            dataset = DATASETS.build(loader.dataset)
            assert dataset.get_gt_labels().tolist() == [0, 1]
            assert dataset.metainfo['classes'] == ('a', 'b')
        data = pseudo_collate([dataset[0], dataset[1]])
        inputs = model.data_preprocessor(data)['inputs']
    expected = (200 - 125.307) / 51.5865
    assert inputs.shape == (2, 3, 32, 32)
    assert inputs[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    'name',
    ['resnet20_b64_digits', 'atss_r18-w16_fpn_b16_digits-detection'],
)
def test_digits_train_and_predict(name: str) -> None:
    """A few steps on one batch lower the loss; a prediction comes out."""
    torch.manual_seed(0)
    cfg = load(ROOT / 'configs' / 'digits' / f'{name}.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg)
        model.init_weights()
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        train = DATASETS.build(cfg.train_dataloader.dataset)
        batch = pseudo_collate([train[i] for i in range(8)])
        losses = []
        for _ in range(8):
            logs = model.train_step(batch, optim_wrapper)
            losses.append(logs['loss'].item())
        val = DATASETS.build(cfg.val_dataloader.dataset)
        model.eval()
        predictions = model.val_step(pseudo_collate([val[0], val[1]]))
    assert losses[-1] < 0.8 * losses[0]
    assert len(predictions) == 2
