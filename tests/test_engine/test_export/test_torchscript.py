# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn

from mmlapp.engine.export.base import Settings
from mmlapp.engine.export.torchscript import TorchScript


def test_a_trace_is_open_in_every_dimension(images, tmp_path):
    path = tmp_path / 'net.torchscript'
    TorchScript().write(nn.ReLU(), images, path, ['y'], Settings('none'))
    assert TorchScript().load(path)(torch.ones(1, 3, 2, 2))[0].sum() == 12
