# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmlapp.core import PruningError
from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.command import Status, export_checkpoint, path_of
from mmlapp.engine.export.files import Exported, load
from mmlapp.engine.models.plans import narrow_model


@pytest.fixture
def narrow_run(classifier_run):
    """A run that was narrowed, as PruningHook does it."""
    run = classifier_run()
    model = narrow_model(run.model, run.model.pruner.plan())
    run.change(lambda data: data.update(state_dict=model.state_dict()))
    return run


def test_a_status_tells_what_rounding_decides():
    made = Exported('onnx', Path('net.onnx'), 0.0, 1e-3, 1, 1.0)
    assert Status('onnx', made.path, made).remark == ''
    assert Status('onnx', made.path, reason='no').remark == 'no'
    torn = Status('onnx', made.path, replace(made, undecided=2))
    assert torn.remark.startswith('2 values are others')


def test_one_format_that_fails_stops_no_other(
    narrow_run, tmp_path, monkeypatch
):
    def refuse(*args):
        raise RuntimeError('no such operator\nand a long story')

    monkeypatch.setattr(
        'mmlapp.engine.export.torch_export.TorchExport.write', refuse
    )
    cfg = Config.fromfile(narrow_run.config)
    out = tmp_path / 'out'
    out.mkdir()
    report = export_checkpoint(
        cfg,
        narrow_run.checkpoint,
        out / 'slim',
        ['torchscript', 'torch_export', 'plain'],
    )
    assert not report.passed
    reasons = {status.name: status.reason for status in report.statuses}
    assert reasons == {
        'torchscript': '',
        'torch_export': "format='torch_export' cannot hold this network "
        '(RuntimeError: no such operator). Try another format, a larger image '
        "with input_shape, or fewer open dimensions with dynamic='none'",
        'plain': '',
    }
    files = {path.name for path in out.iterdir()}
    assert files == {'slim.torchscript', 'slim.pth'}
    assert report.images == '2 images of test_dataloader'
    assert report.part == 'the whole network'


def test_fused_files_compute_the_same(narrow_run, tmp_path):
    cfg = Config.fromfile(narrow_run.config)
    files = []
    for fused in (False, True):
        report = export_checkpoint(
            cfg,
            narrow_run.checkpoint,
            tmp_path / f'slim{fused}',
            ['torchscript', 'plain'],
            fused=fused,
        )
        assert report.passed
        files.append(report.statuses[0].path)
    assert report.notes == ['7 norms were folded']
    images = torch.rand(2, 3, 16, 16)
    plain, fused = (load(path)(images) for path in files)
    torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('formats', 'settings', 'text'),
    [
        (['onxn'], {}, "format='onxn' is unknown; did you mean onnx"),
        (['coreml'], {}, 'unknown; choose one of: .*onnx'),
        (['plain'], dict(fp16=True), 'fp16=True has no effect on formats='),
        (['torchscript'], dict(opset=20), 'opset=20 has no effect on'),
    ],
)
def test_mistakes_are_told_before_anything_is_read(formats, settings, text):
    with pytest.raises(PruningError, match=text):
        export_checkpoint(
            Config(), 'none.pth', 'out', formats, Settings(**settings)
        )


def test_paths():
    assert path_of(Path('a/slim.v2'), 'onnx') == Path('a/slim.v2.onnx')
    assert path_of(Path('slim.onnx'), 'safetensors') == Path(
        'slim.safetensors'
    )


@pytest.mark.parametrize('out', ['', '.', '/'])
def test_a_path_without_a_name(out):
    with pytest.raises(PruningError, match=r'out=.* names no file'):
        path_of(Path(out), 'onnx')
