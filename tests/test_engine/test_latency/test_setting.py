# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.engine.latency.setting import (
    Setting,
    difference,
    usual_divisor,
    versions,
)


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (dict(backend='tensorrt'), "backend='tensorrt'.*onnxruntime"),
        (dict(threads=0), 'threads=0'),
        (dict(batch=1.5), 'batch=1.5'),
        (dict(device='tpu'), "device='tpu'"),
    ],
)
def test_bad_values(given, text):
    with pytest.raises(PruningError, match=text):
        Setting(**given)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(PruningError, match='no GPU'):
        Setting(device='cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    Setting(device='cuda')
    with pytest.raises(PruningError, match=r'runs on\s+the CPU'):
        Setting(device='cuda', backend='onnxruntime')


def test_the_description_tells_settings_apart():
    one, two = (Setting(threads=n).described() for n in (1, 2))
    assert one == Setting().described()
    assert difference(one, two) == 'threads 1, not 2'
    assert difference(one, one) == ''
    assert difference({'old': 1}, {}) == 'old 1, not None'
    assert difference({}, {'new': 1}) == 'new None, not 1'
    assert one['versions'] == {'torch': torch.__version__.partition('+')[0]}


def test_what_is_not_installed(monkeypatch):
    assert versions('openvino')['openvino'] == 'not installed'


@pytest.mark.parametrize(
    ('capability', 'device', 'divisor'),
    [('AVX512', 'cpu', 16), ('AVX2', 'cpu', 8), ('AVX512', 'cuda', 8)],
)
def test_channels_that_kernels_compute_at_a_time(
    monkeypatch, capability, device, divisor
):
    monkeypatch.setattr(
        torch.backends.cpu, 'get_cpu_capability', lambda: capability
    )
    assert usual_divisor(device) == divisor
