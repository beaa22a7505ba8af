# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import ChannelPlan
from mmlapp.engine.export.files import load
from mmlapp.engine.models.plans import narrow_model


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('export')


@pytest.fixture
def run(classifier_run):
    """A run that was narrowed, as PruningHook does it."""
    made = classifier_run()
    narrow_model(made.model, made.model.pruner.plan())
    made.change(lambda data: data.update(state_dict=made.model.state_dict()))
    return made


@pytest.fixture
def fail(tool, capsys):
    """Exports, expects a refusal that leaves no trace; returns its text."""

    def call(*argv, folder):
        before = sorted(folder.rglob('*'))
        with pytest.raises(SystemExit) as info:
            tool.main([str(value) for value in argv])
        assert sorted(folder.rglob('*')) == before
        assert info.value.code not in (0, None)
        return info.value.code

    return call


def test_a_classifier(tool, run, tmp_path, capsys):
    out = tmp_path / 'slim'
    formats = 'torch_export', 'torchscript', 'safetensors'
    argv = [str(run.config), str(run.checkpoint), str(out)]
    tool.main([*argv, '--formats', *formats])
    printed = capsys.readouterr().out
    assert 'input, float32 [n, 3, 16, 16]: (pixel - mean) / std' in printed
    assert 'compared on 2 images of test_dataloader' in printed
    assert printed.count('passed') == 3
    assert '/classification_onnxruntime_dynamic.py' in printed
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        expected = run.model(images)
    (found,) = load(tmp_path / 'slim.torchscript')(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_folder_that_is_not_there_is_told_first(tool, run, tmp_path):
    out = tmp_path / 'none' / 'slim'
    argv = [str(run.config), str(run.checkpoint), str(out)]
    with pytest.raises(SystemExit, match=r"out='.*slim': there is no folder"):
        tool.main([*argv, '--formats', 'torchscript', 'plain'])


@pytest.mark.slow
def test_a_detector(tool, detector_run, tmp_path, capsys):
    run = detector_run()
    narrow_model(run.model, run.model.pruner.plan())
    run.change(lambda data: data.update(state_dict=run.model.state_dict()))
    out = tmp_path / 'slim'
    argv = [str(run.config), str(run.checkpoint), str(out)]
    formats = ['onnx', 'torch_export', 'torchscript', 'plain', 'safetensors']
    tool.main([*argv, '--formats', *formats, '--fuse', '--slim'])
    printed = capsys.readouterr().out
    levels = [f'cls_scores_{i}' for i in range(5)]
    assert f'outputs: {", ".join(levels)}, bbox_preds_0' in printed
    assert 'compared on random images' in printed
    assert '/detection/detection_onnxruntime_dynamic.py' in printed
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        scores, boxes = run.model(images)
    found = load(tmp_path / 'slim.onnx')(images)
    torch.testing.assert_close(found, [*scores, *boxes], rtol=1e-3, atol=1e-4)


def test_a_status_for_every_format(tool, run, tmp_path, capsys):
    (tmp_path / 'slim.pth').write_text('mine')
    argv = [str(run.config), str(run.checkpoint), str(tmp_path / 'slim')]
    with pytest.raises(SystemExit) as info:
        tool.main([*argv, '--formats', 'plain', 'torchscript'])
    assert info.value.code == 1
    printed = capsys.readouterr().out
    assert 'plain: out=' in printed
    assert 'exists; choose another name' in printed
    assert (tmp_path / 'slim.pth').read_text() == 'mine'
    assert (tmp_path / 'slim.torchscript').exists()


def test_the_checkpoint_is_not_written_over(fail, run, tmp_path):
    before = run.checkpoint.read_bytes()
    options = ['--formats', 'onnx', 'plain', '--fuse', '--force']
    out = run.checkpoint.with_suffix('')
    code = fail(run.config, run.checkpoint, out, *options, folder=tmp_path)
    assert 'epoch_3.pth' in code
    assert 'another use' in code
    assert run.checkpoint.read_bytes() == before


def truncated(run):
    data = run.checkpoint.read_bytes()
    run.checkpoint.write_bytes(data[: len(data) // 2])


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def with_code(run):
    torch.save({'state_dict': Bomb('ran')}, run.checkpoint)


def another_model(run):
    state = torch.load(run.checkpoint, weights_only=False)['state_dict']
    del state['head.fc.bias']
    run.change(lambda data: data.update(state_dict=state))


def broken_plan(run):
    def edit(data):
        data['state_dict']['pruning_plans'] = torch.ones(5)

    run.change(edit)


def a_plan_for_a_config(run):
    path = run.config.with_suffix('.plan.json')
    ChannelPlan({}, {}).save(path)
    run.config = path


@pytest.mark.parametrize(
    ('damage', 'text'),
    [
        (truncated, 'cannot be read: it is truncated, damaged'),
        (with_code, 'reading them could run code'),
        (another_model, 'head.fc.bias is missing'),
        (broken_plan, 'pruning_plans in the weights is not to be read'),
        (a_plan_for_a_config, 'has no model: give the config'),
        (lambda run: run.checkpoint.unlink(), 'there is no such file'),
        (lambda run: run.config.unlink(), 'does not exist'),
    ],
)
def test_bad_input(fail, run, tmp_path, damage, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damage(run)
    code = fail(run.config, run.checkpoint, 'slim', folder=tmp_path)
    assert code.startswith('error: ')
    assert text in code
    assert '\n' not in code


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (['--formats', 'torch-export'], 'did you mean torch_export?'),
        (['--opset', '0'], 'opset=0'),
        (['--images', 'none.jpg'], "images='none.jpg': there is no picture"),
    ],
)
def test_bad_options(fail, run, tmp_path, options, text):
    out = tmp_path / 'slim'
    code = fail(run.config, run.checkpoint, out, *options, folder=tmp_path)
    assert text in code


def test_config_and_checkpoint_the_other_way_round(fail, run, tmp_path):
    out = tmp_path / 'slim'
    code = fail(run.checkpoint, run.config, out, folder=tmp_path)
    assert 'the config comes first' in code
