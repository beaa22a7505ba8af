# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What ``deploy`` promises; its tool is tested beside the other tools."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmlapp.core import ChannelPlan, PruningError
from mmlapp.core.compare import DEPLOYED_TOLERANCE
from mmlapp.engine.deployment import deploy as module
from mmlapp.engine.deployment.deploy import deploy, load_deployed
from mmlapp.engine.deployment.masked import build_model
from mmlapp.engine.models.plans import (
    KEY,
    narrow_model,
    plans_of,
    replace_plan,
)

SHAPE = 3, 16, 16
# ResNet-8 at 16 pixels: the stem, three blocks, the classifier
DENSE_FLOPS = (
    16 * 16 * 9 * (3 * 16 + 2 * 16 * 16)
    + 8 * 8 * 9 * (16 * 32 + 32 * 32)
    + 4 * 4 * 9 * (32 * 64 + 64 * 64)
    + 640
)


def snapshot(folder):
    """All files with their contents."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob('*')
    }


@pytest.fixture
def fail(tmp_path):
    """Deploys, expects a refusal that leaves no trace; returns its text."""

    def run(run, config=None, **kwargs):
        out = kwargs.pop('out', tmp_path / 'deep' / 'out')
        before = snapshot(tmp_path)
        with pytest.raises(PruningError) as info:
            deploy(config or run.config, run.checkpoint, out, **kwargs)
        assert snapshot(tmp_path) == before
        return str(info.value)

    return run


@pytest.fixture(scope='module')
def deployed(finished_run, tmp_path_factory):
    """A run, what was made of it, and what was told meanwhile."""
    run, told = finished_run(tmp_path_factory.mktemp('run')), []
    out = run.config.parent / 'out'
    result = deploy(run.config, run.checkpoint, out, progress=told.append)
    return run, result, told


@torch.no_grad()
def outputs(model):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 24, 24, generator=generator)
    return model.eval()(image, mode='tensor')


def load(result):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return load_deployed(result.config, result.checkpoint)


def assert_same_outputs(a, b):
    torch.testing.assert_close(outputs(a), outputs(b), rtol=1e-4, atol=1e-5)


def figures_of(result):
    return {figure.name: figure for figure in result.figures}


def test_figures(deployed):
    run, result, _ = deployed
    figures = figures_of(result)
    analytic = figures['FLOPs, analytic']
    counted = figures['FLOPs, counted by MMEngine']
    assert analytic.before == counted.before == DENSE_FLOPS
    assert analytic.after == counted.after
    assert 0.49 <= counted.ratio <= analytic.target == 0.5
    parameters = figures['parameters']
    assert parameters.before == sum(p.numel() for p in run.model.parameters())
    assert parameters.after == sum(
        p.numel() for p in load(result).parameters()
    )
    assert parameters.ratio < 1
    assert parameters.target is None
    size = figures['bytes of the checkpoint']
    assert size.before == run.checkpoint.stat().st_size
    assert size.after == result.checkpoint.stat().st_size
    assert size.after < size.before - 400_000  # the optimizer


def test_what_was_compared_and_written(deployed):
    run, result, told = deployed
    assert [check.name for check in result.checks] == [
        'random 3x16x16',
        'random 3x32x32',
        '4 images of test_dataloader',
        '4 images of test_dataloader, predict',
        '4 images of test_dataloader, loss',
        'random 3x16x16, predict',
        'random 3x16x16, loss',
    ]
    assert all(0 <= c.error <= DEPLOYED_TOLERANCE for c in result.checks)
    assert result.notes == []
    assert result.widths == f'in_channels={load(result).head.fc.in_features}'
    assert told[0] == 'reading the checkpoint'
    assert told[-1] == 'counting FLOPs'
    files = {result.config, result.checkpoint, result.plan}
    assert files == set(result.config.parent.iterdir())
    assert {path.name for path in files} == {
        'run.py',
        'run.pth',
        'run.plan.json',
    }
    assert ChannelPlan.load(result.plan) == run.model.pruner.plan()


def test_a_checkpoint_says_where_it_is_from(deployed):
    _, result, _ = deployed
    data = torch.load(result.checkpoint)
    assert set(data) == {'meta', 'state_dict'}
    assert data['meta']['epoch'] == 3
    assert data['meta']['dataset_meta']['classes'] == tuple('0123456789')
    assert data['meta']['cfg'] == result.config.read_text()
    assert not [k for k in data['state_dict'] if k.startswith('pruner')]


@pytest.mark.parametrize(
    ('filename', 'name', 'stem'),
    [(True, 'mine', 'mine'), (False, None, 'deployed')],
)
def test_names(classifier_run, tmp_path, filename, name, stem):
    """The config may be one that was changed in memory.

    That of a file without another name is tested above.
    """
    run = classifier_run()
    cfg = Config.fromfile(run.config)
    if not filename:
        cfg = Config(cfg.to_dict())
    before = copy.deepcopy(cfg.to_dict())
    result = deploy(cfg, run.checkpoint, tmp_path / 'out', name=name)
    assert cfg.to_dict() == before
    assert result.config.name == f'{stem}.py'
    assert result.checkpoint.name == f'{stem}.pth'
    assert result.plan.name == f'{stem}.plan.json'


@pytest.mark.parametrize('unit', ['channels', 'filters'])
def test_merged_bypasses(classifier_run, tmp_path, unit):
    """Fewer FLOPs and the same outputs; what fills removed filters stays."""
    run = classifier_run('depthwise', target=0.6, unit=unit)
    result = deploy(run.config, run.checkpoint, tmp_path / 'out', merge=True)
    assert len(result.checks) == 7
    model, plan = load(result), ChannelPlan.load(result.plan)
    assert_same_outputs(model, run.model)
    figures = figures_of(result)
    analytic = figures['FLOPs, analytic']
    counted = figures['FLOPs, counted by MMEngine']
    assert analytic.before == counted.before == DENSE_FLOPS
    assert analytic.after == pytest.approx(counted.after)
    bypasses = [k for k in model.state_dict() if '.bypass.' in k]
    assert bool(plan.branches) == bool(bypasses) == (unit == 'filters')
    (note,) = result.notes
    if unit == 'channels':
        assert analytic.ratio < run.model.pruner.ratios()['flops']
        assert note == '6 of 6 bypasses merged'
    else:
        assert note.endswith('; the others stay: it fills removed filters')


@pytest.mark.parametrize(
    ('kind', 'narrow'), [('repvgg', True), ('asymmetric', False)]
)
def test_free_bypasses_are_merged(classifier_run, tmp_path, kind, narrow):
    """The budget is that of the plain model that is deployed."""
    run = classifier_run(kind, target=0.6)
    ratio = run.model.pruner.ratios()['flops']
    if narrow:
        narrow_checkpoint(run)
    result = deploy(run.config, run.checkpoint, tmp_path / 'out')
    model, plan = load(result), ChannelPlan.load(result.plan)
    assert_same_outputs(model, run.model)
    figures = figures_of(result)
    for name in ('FLOPs, analytic', 'FLOPs, counted by MMEngine'):
        assert figures[name].after == pytest.approx(ratio * DENSE_FLOPS)
    assert figures['parameters'].after == sum(
        p.numel() for p in model.parameters()
    )
    assert not plan.branches
    # ResNet's convolutions have no bias; the norms' shifts need one.
    assert plan.biases
    assert not [k for k in model.state_dict() if '.bypass.' in k]
    assert any('bypasses merged' in note for note in result.notes)


def test_filters_have_details_in_the_plan(classifier_run, tmp_path):
    """Without the channels that a bypass fills no layer could be built."""
    run = classifier_run('depthwise', target=0.6, unit='filters')
    result = deploy(run.config, run.checkpoint, tmp_path / 'out')
    data = json.loads(result.plan.read_text())
    assert data['unit'] == 'filters'
    assert any('outputs' in entry for entry in data['details'].values())
    plan = run.model.pruner.plan()
    assert ChannelPlan.load(result.plan).details == plan.details
    assert_same_outputs(load(result), run.model)


def test_averaged_weights_are_noted(classifier_run, tmp_path):
    run = classifier_run()
    run.change(lambda data: data.update(ema_state_dict={}))
    result = deploy(run.config, run.checkpoint, tmp_path / 'out')
    assert result.notes == ['the weights are the averaged ones (EMA)']
    assert ChannelPlan.load(result.plan) == run.model.pruner.plan()


def narrow_checkpoint(run, edit=lambda plan: plan):
    """As if the run had narrowed its model, to the plan or what it says."""

    def change(data):
        plan = run.model.pruner.plan()
        model = narrow_model(copy.deepcopy(run.model), plan)
        replace_plan(model, edit(plan))
        data['state_dict'] = model.state_dict()

    run.change(change)


@pytest.mark.parametrize(
    'settings',
    [
        dict(),
        dict(bypass='depthwise', target=0.6),
        dict(bypass='grouped', target=0.6),
        dict(bypass=dict(type='pointwise', norm=True), target=0.6),
        dict(bypass='depthwise', unit='filters', target=0.6),
        dict(unit='stripes'),
    ],
    ids=['plain', 'depthwise', 'grouped', 'norms', 'filters', 'stripes'],
)
def test_a_run_that_has_narrowed_its_model(classifier_run, tmp_path, settings):
    run = classifier_run(**settings)
    plan = run.model.pruner.plan()
    narrow_checkpoint(run)
    result = deploy(run.config, run.checkpoint, tmp_path / 'out')
    assert ChannelPlan.load(result.plan) == plan
    assert figures_of(result)['FLOPs, analytic'].before == DENSE_FLOPS
    assert_same_outputs(load(result), run.model)


def test_stripes_are_counted_as_they_run(classifier_run, tmp_path):
    """MMEngine counts what the deployed layers multiply."""
    run = classifier_run(unit='stripes')
    result = deploy(run.config, run.checkpoint, tmp_path / 'out', merge=True)
    model, plan = load(result), ChannelPlan.load(result.plan)
    assert_same_outputs(model, run.model)
    figures = figures_of(result)
    analytic = figures['FLOPs, analytic']
    assert analytic.after == figures['FLOPs, counted by MMEngine'].after
    assert 0.49 < analytic.ratio <= 0.5
    assert figures['parameters'].after == sum(
        p.numel() for p in model.parameters()
    )
    assert plan.costs['parameters']['pruned'] == figures['parameters'].after
    assert 'backbone.conv1' in plan.details


def test_a_deployed_model_is_pruned_and_deployed_again(
    classifier_run, tmp_path
):
    """And again, always to what the last one computes."""
    run = classifier_run()
    checkpoint, cfg = run.checkpoint, Config.fromfile(run.config)
    again = run.model
    for times in range(3):
        result = deploy(cfg, checkpoint, tmp_path / f'{times}', name='slim')
        model = load(result)
        assert len(plans_of(model)) == times + 1
        assert_same_outputs(model, again)
        slim = Config.fromfile(result.config).model.to_dict()
        assert slim['backbone']['type'] == 'mmlapp.CIFARResNet'
        cfg.model = dict(
            type='mmlapp.PrunableModel',
            architecture=slim,
            input_shape=(3, 16, 16),
        )
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            again = build_model(cfg)
        again.load_state_dict(model.state_dict(), strict=False)
        assert_same_outputs(again, model)
        again.pruner.begin({'flops': 0.8}, steps=1)
        again.pruner.finish()
        if times:  # once with masks, then narrow
            narrow_model(again, again.pruner.plan())
        checkpoint = tmp_path / f'{times}.pth'
        torch.save({'state_dict': again.state_dict()}, checkpoint)


def unfinished(data):
    data['state_dict']['pruner.progress'].copy_(
        torch.tensor([1, 7, 20, 0.5, 0])
    )


def not_begun(data):
    data['state_dict']['pruner.progress'].zero_()


def dense(data):
    for key in list(data['state_dict']):
        if key.startswith('pruner.'):
            del data['state_dict'][key]


def averaged_masks(data):
    data['state_dict']['pruner.gate'].mul_(0.5)


def broken_plan(data):
    data['state_dict'][KEY] = torch.tensor([91, 123], dtype=torch.uint8)


def other_layer(data):
    data['state_dict']['backbone.extra.weight'] = torch.zeros(1)


def missing_layer(data):
    del data['state_dict']['head.fc.bias']


def other_width(data):
    data['state_dict']['head.fc.bias'] = torch.zeros(11)


@pytest.mark.parametrize(
    ('edit', 'text'),
    [
        (unfinished, 'its pruning phase has not finished (step 7 of 20)'),
        (not_begun, 'its pruning phase has not begun'),
        (dense, 'has neither a channel plan nor masks'),
        (averaged_masks, 'the masks in the checkpoint are neither 0 nor 1'),
        (broken_plan, 'pruning_plans in the weights is not to be read'),
        (other_layer, 'does not fit the model of the config: backbone.extra'),
        (missing_layer, 'of the config: head.fc.bias is missing. Give'),
        (other_width, 'head.fc.bias: copying a param with shape'),
        (lambda data: data.pop('state_dict'), 'has no state_dict'),
    ],
)
def test_checkpoints_that_are_refused(fail, classifier_run, edit, text):
    run = classifier_run()
    run.change(edit)
    assert text in fail(run)


def test_a_narrow_run_is_compared_with_a_masked_twin(fail, classifier_run):
    """Not with its own copy, which has the same mistakes."""
    run = classifier_run('depthwise', unit='filters', target=0.6)
    narrow_checkpoint(run)

    def to_wrong_places(data):
        weights = data['state_dict']
        name = next(key for key in weights if key.endswith('.kept'))
        weights[name] = weights[name].roll(1)

    run.change(to_wrong_places)
    assert 'does not compute what the masked one does' in fail(run)


def test_a_model_that_does_not_predict_is_not_written(
    fail, classifier_run, monkeypatch
):
    """Its features alone are right."""
    run = classifier_run()
    original = module.load_deployed

    def broken(config, checkpoint):
        model = original(config, checkpoint)
        predict = model.head.predict
        model.head.predict = lambda feats, samples=None: predict(
            [feat[:, 1:] for feat in feats], samples
        )
        return model

    monkeypatch.setattr(module, 'load_deployed', broken)
    text = fail(run)
    assert 'does not run on 4 images of test_dataloader, predict' in text

    def other(config, checkpoint):
        model = original(config, checkpoint)
        predict = model.head.predict
        model.head.predict = lambda feats, samples=None: predict(
            [feat * 1.1 for feat in feats], samples
        )
        return model

    monkeypatch.setattr(module, 'load_deployed', other)
    text = fail(run)
    assert 'does not compute what the masked one does' in text
    assert 'random 3x16x16, predict' in text
    assert ', loss' not in text


def without_a_group(plan):
    return replace(plan, groups=dict(list(plan.groups.items())[1:]))


def without_a_tensor(plan):
    return replace(plan, slices=dict(list(plan.slices.items())[1:]))


def with_a_detail(plan):
    kept = next(iter(plan.groups.values()))
    return replace(plan, details={'backbone.conv1': {'outputs': kept}})


@pytest.mark.parametrize(
    ('edit', 'text'),
    [
        (without_a_group, 'channel groups differ, such as backbone.'),
        (without_a_tensor, 'its groups reach other layers'),
        (with_a_detail, 'its groups reach other layers'),
    ],
)
def test_plans_that_are_refused(fail, classifier_run, edit, text):
    run = classifier_run()
    narrow_checkpoint(run, edit)
    assert text in fail(run)


def test_a_truncated_checkpoint_is_refused(fail, classifier_run):
    run = classifier_run()
    data = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(data[: len(data) // 2])
    assert "epoch_3.pth' cannot be read: it is truncated" in fail(run)


@pytest.mark.parametrize(
    ('kind', 'text'),
    [
        ('mmlapp.DeployedModel', 'it is already deployed'),
        ('ImageClassifier', "expected type='mmlapp.PrunableModel'"),
    ],
)
def test_other_configs_are_refused(fail, classifier_run, kind, text):
    run = classifier_run()
    cfg = Config.fromfile(run.config)
    cfg.model.type = kind
    assert f'config: model.type={kind!r}; {text}' in fail(run, cfg)


@pytest.mark.parametrize('force', [False, True])
def test_a_folder_with_other_files_is_refused(
    fail, classifier_run, tmp_path, force
):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'notes.txt').write_text('mine')
    message = fail(classifier_run(), out=tmp_path / 'out', force=force)
    assert 'holds notes.txt' in message


@pytest.mark.parametrize(
    ('factor', 'former'), [(1.01, False), (float('nan'), True)]
)
def test_a_model_that_differs_is_not_written(
    fail, classifier_run, tmp_path, monkeypatch, factor, former
):
    run = classifier_run()
    out = tmp_path / 'deep' / 'out'
    if former:
        deploy(run.config, run.checkpoint, out)
    original = module.load_deployed

    def spoiled(config, checkpoint):
        model = original(config, checkpoint)
        model.backbone.conv1.weight.data.mul_(factor)
        return model

    monkeypatch.setattr(module, 'load_deployed', spoiled)
    text = fail(run, out=out, force=former)
    assert 'does not compute what the masked one does' in text
    assert 'random 3x16x16' in text
    assert '4 images of test_dataloader' in text


def test_an_interrupt_leaves_the_former_deployment(
    classifier_run, tmp_path, monkeypatch
):
    run = classifier_run()
    out = tmp_path / 'out'
    deploy(run.config, run.checkpoint, out)
    shutil.copy(out / 'run.pth', tmp_path / 'former.pth')

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'figures_of', interrupt)
    with pytest.raises(KeyboardInterrupt):
        deploy(run.config, run.checkpoint, out, force=True)
    former = (tmp_path / 'former.pth').read_bytes()
    assert (out / 'run.pth').read_bytes() == former
    assert not list(tmp_path.glob('.*'))


def test_every_weight_must_be_there(deployed, tmp_path):
    _, result, _ = deployed
    assert not any(m.training for m in load(result).modules())
    data = torch.load(result.checkpoint)
    del data['state_dict']['head.fc.bias']
    torch.save(data, tmp_path / 'without.pth')
    with pytest.raises(PruningError, match=r'head\.fc\.bias'):
        load(replace(result, checkpoint=tmp_path / 'without.pth'))
