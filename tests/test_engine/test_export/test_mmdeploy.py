# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from torch import nn

from mmlapp.engine.export.mmdeploy import mmdeploy_command


def command(model):
    return mmdeploy_command(model, 'a b.py', 'x.pth', Path('out/slim'))


def test_the_command_of_a_classifier():
    from mmpretrain.models import VGG

    assert command(VGG(11)).split(' ', 3) == [
        'python',
        '$MMDEPLOY/tools/deploy.py',
        '$MMDEPLOY/configs/mmpretrain/classification_onnxruntime_dynamic.py',
        "'a b.py' x.pth IMAGE.jpg --work-dir out/slim_mmdeploy --device cpu "
        '--dump-info',
    ]


def test_detectors_with_and_without_masks():
    from mmdet.models import FPN

    model = FPN([4], 4, 1)
    assert '/detection_onnxruntime_dynamic.py' in command(model)
    model.with_mask = True
    assert '/instance-seg_onnxruntime_dynamic.py' in command(model)


def test_other_models_have_none():
    assert command(nn.ReLU()) == ''
