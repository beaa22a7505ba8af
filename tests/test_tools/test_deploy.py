# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import errno
import json
import os
import re
import resource
from pathlib import Path

import pytest
import torch
from config_layout import layout
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from mmlapp.core import ChannelPlan
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
    assert printed.count('same outputs on random') == 4
    assert 'same outputs on 4 images of test_dataloader' in printed
    assert re.search(r'│ backbone\.layer1\.0\.conv1 +│ +16 → \d+ │', printed)


def test_merged_bypasses(tool, classifier_run, tmp_path, capsys):
    """Fewer FLOPs, the same outputs, and no bypass that could go."""
    from mmpretrain.apis import init_model

    run = classifier_run('depthwise', target=0.6)
    command = str(run.config), str(run.checkpoint)
    tool.main([*command, str(tmp_path / 'a')])
    tool.main([*command, str(tmp_path / 'b'), '--merge-bypasses'])
    printed = capsys.readouterr().out
    note = r'note: (\d+) of \1 bypasses merged$'
    assert re.search(note, printed, re.MULTILINE)
    assert printed.count('same outputs on') == 14
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
    assert plans[1].ratios()['flops'] < plans[0].ratios()['flops']
    assert not plans[1].branches
    assert not [k for k in models[1].state_dict() if 'bypass' in k]


def test_a_latency_budget_is_measured(
    tool, latency_run, tmp_path, capsys, monkeypatch
):
    """Where the table says; of another device, it says so."""
    _, run = latency_run
    argv = [str(run.config), str(run.checkpoint), str(tmp_path / 'out')]
    asked = []

    def measured(cfg, checkpoint, written):
        asked.append((checkpoint, written.checkpoint))
        return 'latency: predicted and measured'

    monkeypatch.setattr(tool, 'latency_text', measured)
    tool.main(argv)
    out = capsys.readouterr().out
    assert 'latency, predicted, in seconds' in out
    assert out.rstrip().endswith('latency: predicted and measured')
    assert asked == [(str(run.checkpoint), tmp_path / 'out' / 'run.pth')]


def test_the_test_tool_evaluates_it(
    tool, classifier_run, tmp_path, load_tool, clean_runner
):
    run = classifier_run()
    with layout():
        tool.main(
            [str(run.config), str(run.checkpoint), str(tmp_path / 'out')]
        )
    test = load_tool('test')
    accuracy = []
    for config, checkpoint in (
        (run.config, run.checkpoint),
        (tmp_path / 'out/run.py', tmp_path / 'out/run.pth'),
    ):
        # The run has no training data, and a runner wants all or nothing.
        options = '--cfg-options', 'optim_wrapper=None'
        args = test.parse_args([str(config), str(checkpoint), *options])
        cfg = test.configure(args)
        cfg.update(
            work_dir=str(tmp_path),
            experiment_name=f'{tmp_path.name}{len(accuracy)}',
            log_level='ERROR',
            custom_hooks=[],
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


def test_a_truncated_checkpoint_is_refused(fail, classifier_run, tmp_path):
    run = classifier_run()
    data = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(data[: len(data) // 2])
    text = fail(run.config, run.checkpoint, out=tmp_path / 'out')
    assert text.startswith('error: checkpoint=')
    assert "epoch_3.pth' cannot be read: it is truncated" in text


def test_an_address_is_refused(fail, classifier_run, tmp_path):
    address = 'https://nowhere.invalid/a.pth'
    text = fail(classifier_run().config, address, out=tmp_path / 'out')
    assert text == (
        f"error: checkpoint='{address}' is an address, and only files are "
        'read here: download it, and give its path'
    )


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


def test_a_full_disk(fail, classifier_run, tmp_path):
    """The system refuses files as large as the checkpoint."""
    run = classifier_run()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        text = fail(run.config, run.checkpoint, out=tmp_path / 'out')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = f'out={str(tmp_path / "out")!r} cannot be written (File too large)'
    assert said in text


def test_folders_that_must_stay(tool, classifier_run, tmp_path, monkeypatch):
    """One behind a link, the working directory, and a mount point."""
    run = classifier_run()
    disk, link = tmp_path / 'disk', tmp_path / 'link'
    disk.mkdir()
    link.symlink_to('disk')
    rename = Path.rename

    def as_of_a_mount_point(path, target):
        if path.resolve() == disk:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, target)

    monkeypatch.setattr(Path, 'rename', as_of_a_mount_point)
    monkeypatch.chdir(disk)
    files = {'run.py', 'run.pth', 'run.plan.json'}
    argv = [str(run.config), str(run.checkpoint)]
    for out in ([str(link)], [str(link), '--force'], ['.', '--force']):
        tool.main([*argv, *out])
        assert link.is_symlink()
        assert {path.name for path in disk.iterdir()} == files
        assert Path.cwd() == disk
    assert not list(tmp_path.glob('.*'))


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
