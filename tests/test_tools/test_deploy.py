# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import re
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from mmlapp.core import ChannelPlan
from mmlapp.engine.deployment import deploy as logic
from mmlapp.engine.models.complexity import counted_flops, operator_flops


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('deploy')


@pytest.fixture
def fail(tool, capsys):
    """Deploys, expects a refusal that leaves no trace; returns its text."""

    def run(*argv, out):
        before = sorted(out.parent.rglob('*'))
        with pytest.raises(SystemExit) as info:
            tool.main([*map(str, argv[:2]), str(out), *argv[2:]])
        assert sorted(out.parent.rglob('*')) == before
        return info.value.code

    return run


@pytest.fixture
def clean_runner():
    """Removes what a Runner leaves behind."""
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            handler.close()
    for kind in (MessageHub, MMLogger, Visualizer, DefaultScope):
        kind._instance_dict.clear()


def outputs(model, image):
    with torch.no_grad():
        return model.eval()(image, mode='tensor')


BYPASSES = [
    dict(),
    dict(bypass='depthwise', unit='filters'),
    dict(bypass=dict(type='grouped', norm=True)),
]


@pytest.mark.parametrize('bypass', BYPASSES)
def test_a_stock_call_loads_the_classifier(
    tool, classifier_run, tmp_path, bypass, capsys
):
    from mmpretrain.apis import init_model

    run = classifier_run(**bypass, target=0.6)
    tool.main([str(run.config), str(run.checkpoint), str(tmp_path / 'out')])
    files = {path.name for path in (tmp_path / 'out').iterdir()}
    assert files == {'run.py', 'run.pth', 'run.plan.json'}
    # The folder may be moved, and needs neither plan nor former config.
    moved = (tmp_path / 'out').rename(tmp_path / 'elsewhere')
    run.config.unlink()
    (moved / 'run.plan.json').unlink()
    model = init_model(str(moved / 'run.py'), str(moved / 'run.pth'))
    assert type(model).__name__ == 'ImageClassifier'
    assert model._dataset_meta['classes'] == tuple('0123456789')
    image = torch.rand(2, 3, 24, 24)
    expected = outputs(run.model, image)
    assert expected.shape == (2, 10)
    torch.testing.assert_close(
        outputs(model, image), expected, rtol=1e-4, atol=1e-5
    )
    before = sum(p.numel() for p in run.model.parameters())
    assert sum(p.numel() for p in model.parameters()) < before
    printed = capsys.readouterr().out
    assert printed.count('same outputs on random') == 2
    assert 'same outputs on 4 images of test_dataloader' in printed


@pytest.mark.parametrize(
    ('unit', 'note'),
    [
        ('channels', r'note: (\d+) of \1 bypasses merged$'),
        ('filters', r'merged; the others stay: it fills removed filters$'),
    ],
)
def test_merged_bypasses(tool, classifier_run, tmp_path, capsys, unit, note):
    """Fewer FLOPs, the same outputs, and no bypass that could go."""
    from mmpretrain.apis import init_model

    run = classifier_run('depthwise', target=0.6, unit=unit)
    command = str(run.config), str(run.checkpoint)
    tool.main([*command, str(tmp_path / 'a')])
    tool.main([*command, str(tmp_path / 'b'), '--merge-bypasses'])
    printed = capsys.readouterr().out
    assert re.search(note, printed, re.MULTILINE)
    assert printed.count('same outputs on') == 6
    plans = [ChannelPlan.load(tmp_path / x / 'run.plan.json') for x in 'ab']
    models = [
        init_model(str(tmp_path / x / 'run.py'), str(tmp_path / x / 'run.pth'))
        for x in 'ab'
    ]
    image = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(
        *(outputs(model, image) for model in models), rtol=1e-4, atol=1e-5
    )
    shape = 3, 16, 16
    for plan, model in zip(plans, models, strict=True):
        counted = counted_flops(operator_flops(model, shape)[0])
        assert counted == pytest.approx(plan.costs['flops']['pruned'])
    if unit == 'channels':
        assert plans[1].ratios()['flops'] < plans[0].ratios()['flops']
        assert not plans[1].branches
        assert not [k for k in models[1].state_dict() if 'bypass' in k]


def test_figures(classifier_run, tmp_path):
    run = classifier_run()
    result = logic.deploy(run.config, run.checkpoint, tmp_path / 'out')
    figures = {figure.name: figure for figure in result.figures}
    analytic = figures['FLOPs, analytic']
    counted = figures['FLOPs, counted by MMEngine']
    # ResNet-8 at 16 pixels: the stem, three blocks, the classifier
    dense = 16 * 16 * 9 * (3 * 16 + 2 * 16 * 16)
    dense += 8 * 8 * 9 * (16 * 32 + 32 * 32)
    dense += 4 * 4 * 9 * (32 * 64 + 64 * 64) + 640
    assert analytic.before == counted.before == dense
    assert analytic.after == counted.after
    assert 0.49 <= counted.ratio <= analytic.target == 0.5
    assert figures['parameters'].ratio < 1
    size = figures['bytes of the checkpoint']
    assert size.before == run.checkpoint.stat().st_size
    assert size.after == result.checkpoint.stat().st_size
    assert size.after < size.before - 400_000  # the optimizer


def test_the_test_tool_evaluates_it(
    tool, classifier_run, tmp_path, load_tool, clean_runner
):
    run = classifier_run()
    tool.main([str(run.config), str(run.checkpoint), str(tmp_path / 'out')])
    test = load_tool('test')
    accuracy = []
    for config, checkpoint in (
        (run.config, run.checkpoint),
        (tmp_path / 'out/run.py', tmp_path / 'out/run.pth'),
    ):
        args = test.parse_args([str(config), str(checkpoint)])
        cfg = test.configure(args)
        cfg.update(
            work_dir=str(tmp_path),
            experiment_name=f'{tmp_path.name}{len(accuracy)}',
            log_level='ERROR',
            custom_hooks=[],
            optim_wrapper=None,
        )
        cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
        metrics = tmp_path / f'{len(accuracy)}.json'
        test.evaluate(test.build_runner(cfg), metrics)
        accuracy.append(json.loads(metrics.read_text())['accuracy/top1'])
    assert accuracy[0] == accuracy[1]


def test_a_stock_call_loads_the_detector(tool, detector_run, tmp_path, capsys):
    from mmdet.apis import inference_detector, init_detector

    run = detector_run()
    tool.main([str(run.config), str(run.checkpoint), str(tmp_path / 'out')])
    printed = capsys.readouterr().out
    assert 'no real images were compared, only random ones' in printed
    assert 'nowhere.json' in printed
    cfg = Config.fromfile(tmp_path / 'out/run.py')
    assert cfg.model.architecture == 'RetinaNet'
    assert cfg.model.backbone.base_channels == 8
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='mmdet.LoadImageFromNDArray'),
        dict(type='mmdet.Resize', scale=(64, 64)),
        dict(type='mmdet.PackDetInputs'),
    ]
    model = init_detector(cfg, str(tmp_path / 'out/run.pth'), device='cpu')
    assert type(model).__name__ == 'RetinaNet'
    assert model.dataset_meta['classes'] == tuple('0123456789')
    image = torch.randint(255, (64, 64, 3), dtype=torch.uint8).numpy()
    found = inference_detector(model, image).pred_instances
    run.model.cfg = cfg
    expected = inference_detector(run.model, image).pred_instances
    assert len(found) == 5
    torch.testing.assert_close(
        found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-3
    )


def test_averaged_weights_and_the_plan_count(classifier_run, tmp_path):
    run = classifier_run()

    def average(data):
        # EMAHook with update_buffers averages everything but the mask,
        # which stays as it was at the first iteration.
        data['ema_state_dict'] = {}
        data['state_dict']['pruner.gate'].fill_(1)
        data['state_dict']['pruner.progress'].fill_(0.7)

    run.change(average)
    result = logic.deploy(run.config, run.checkpoint, tmp_path / 'out')
    assert 'the weights are the averaged ones (EMA)' in result.notes
    assert ChannelPlan.load(result.plan) == run.model.pruner.plan()


def test_without_a_plan_the_masks_count(classifier_run, tmp_path):
    run = classifier_run()
    run.change(lambda data: data.pop('pruning_plan'))
    result = logic.deploy(run.config, run.checkpoint, tmp_path / 'out')
    assert ChannelPlan.load(result.plan) == run.model.pruner.plan()


def unfinished(data):
    del data['pruning_plan']
    data['state_dict']['pruner.progress'].copy_(
        torch.tensor([1, 7, 20, 0.5, 0])
    )


def not_begun(data):
    del data['pruning_plan']
    data['state_dict']['pruner.progress'].zero_()


def dense(data):
    del data['pruning_plan']
    for key in list(data['state_dict']):
        if key.startswith('pruner.'):
            del data['state_dict'][key]


def broken_plan(data):
    del data['pruning_plan']['slices']


def other_groups(data):
    data['pruning_plan']['groups'].popitem()


def other_slices(data):
    data['pruning_plan']['slices'].popitem()


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
        (broken_plan, 'the channel plan is damaged'),
        (other_groups, 'channel groups differ, such as backbone.'),
        (other_slices, 'its groups reach other layers'),
        (other_layer, 'does not fit the model of the config: backbone.extra'),
        (missing_layer, 'of the config: head.fc.bias is missing. Give'),
        (other_width, 'head.fc.bias: copying a param with shape'),
        (lambda data: data.pop('state_dict'), 'has no state_dict'),
    ],
)
def test_checkpoints_that_are_refused(
    fail, classifier_run, tmp_path, edit, text
):
    run = classifier_run()
    run.change(edit)
    assert text in fail(run.config, run.checkpoint, out=tmp_path / 'out')


def test_a_truncated_checkpoint_is_refused(fail, classifier_run, tmp_path):
    run = classifier_run()
    data = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(data[: len(data) // 2])
    text = fail(run.config, run.checkpoint, out=tmp_path / 'out')
    assert "epoch_3.pth' cannot be read: it is truncated" in text


@pytest.mark.parametrize(
    ('kind', 'text'),
    [
        ('mmlapp.DeployedModel', 'it is already deployed'),
        ('ImageClassifier', "expected type='mmlapp.PrunableModel'"),
    ],
)
def test_other_configs_are_refused(fail, classifier_run, tmp_path, kind, text):
    run = classifier_run()
    options = ['--cfg-options', f'model.type={kind}']
    out = tmp_path / 'out'
    message = fail(run.config, run.checkpoint, *options, out=out)
    assert f'config: model.type={kind!r}; {text}' in message


def test_a_folder_in_use_is_refused(fail, classifier_run, tmp_path):
    run = classifier_run()
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'notes.txt').write_text('mine')
    assert 'exists and holds notes.txt' in fail(
        run.config, run.checkpoint, out=out
    )
    assert 'holds notes.txt, which is of no deployment' in fail(
        run.config, run.checkpoint, '--force', out=out
    )


def test_force_replaces_a_deployment(tool, fail, classifier_run, tmp_path):
    run = classifier_run()
    out = tmp_path / 'out'
    argv = [str(run.config), str(run.checkpoint), str(out)]
    tool.main(argv)
    (out / 'run.pth').write_text('old')
    assert '--force' in fail(run.config, run.checkpoint, out=out)
    assert (out / 'run.pth').read_text() == 'old'
    tool.main([*argv, '--force'])
    assert len(torch.load(out / 'run.pth')['state_dict']) > 1
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('factor', [1.01, float('nan')])
def test_a_model_that_differs_is_not_written(
    fail, classifier_run, tmp_path, monkeypatch, factor
):
    run = classifier_run()
    original = logic.load_deployed

    def spoiled(config, checkpoint):
        model = original(config, checkpoint)
        model.backbone.conv1.weight.data.mul_(factor)
        return model

    monkeypatch.setattr(logic, 'load_deployed', spoiled)
    text = fail(run.config, run.checkpoint, out=tmp_path / 'deep' / 'out')
    assert 'does not compute what the masked one does' in text
    assert 'random 3x16x16' in text
    assert '4 images of test_dataloader' in text


def test_an_interrupt_leaves_the_former_deployment(
    classifier_run, tmp_path, monkeypatch
):
    run = classifier_run()
    out = tmp_path / 'out'
    logic.deploy(run.config, run.checkpoint, out)
    shutil.copy(out / 'run.pth', tmp_path / 'former.pth')

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(logic, '_figures', interrupt)
    with pytest.raises(KeyboardInterrupt):
        logic.deploy(run.config, run.checkpoint, out, force=True)
    former = (tmp_path / 'former.pth').read_bytes()
    assert (out / 'run.pth').read_bytes() == former
    assert not list(tmp_path.glob('.*'))
