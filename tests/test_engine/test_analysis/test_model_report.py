# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from joined_layers import JoinedLayers
from mmengine.config import Config
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.analysis import model_report as analysis
from mmlapp.engine.analysis.model_report import analyse_config, analyse_model
from mmlapp.engine.analysis.tables import layers_table, totals_table
from mmlapp.engine.terminal import console

CONFIG = dict(
    default_scope='mmpretrain',
    model=dict(
        type='ImageClassifier',
        backbone=dict(type='mmlapp.CIFARResNet', depth=8, shortcut='B'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    ),
    data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
)
SHAPE = dict(input_shape=(3, 8, 8))


@pytest.fixture
def config():
    torch.manual_seed(0)
    return Config(CONFIG)


@pytest.fixture
def lapp_config(config):
    config.model.update(
        type='mmlapp.PrunableModel',
        architecture='ImageClassifier',
        input_shape=(3, 8, 8),
        ignore=['*.conv1'],
    )
    return config


def test_layers(config):
    report = analyse_config(config, SHAPE)
    layers = {layer.name: layer for layer in report.layers}
    inner = layers['backbone.layer2.0.conv1']
    assert (inner.kind, inner.inputs, inner.outputs) == ('Conv2d', 16, 32)
    assert inner.flops == 4 * 4 * 9 * 16 * 32
    assert inner.share == inner.flops / report.flops
    assert (inner.prunable, inner.reason) == (32, None)
    last = layers['head.fc']
    assert last.flops == 640
    assert (last.prunable, last.groups) == (0, ())
    assert last.reason == 'output of the network'
    # a residual sum ties what it adds
    groups = [
        layers[f'backbone.{name}'].groups
        for name in ('conv1', 'layer1.0.conv2', 'layer1.0.conv1')
    ]
    assert groups[0] == groups[1] != groups[2]
    names = list(report.groups)
    assert names[inner.groups[0] - 1] == inner.name


def test_sums(config):
    report = analyse_config(config, SHAPE)
    assert report.flops == sum(layer.flops for layer in report.layers)
    assert report.flops == report.mmengine_flops
    assert report.bypass_flops == 0
    assert report.prunable_share == 1.0
    # every group at one channel: the inner and the three outer widths
    lowest = 64 * 9 * (3 + 1 + 1) + 16 * (9 + 9 + 1) + 4 * (9 + 9 + 1) + 10
    assert report.minimum == pytest.approx(lowest / report.flops)
    assert len(report.groups) == 6
    assert report.uncounted['batch_norm'] > 0
    assert report.foreign == {}
    assert report.unknown == {}


def test_a_divisor_raises_the_minimum(config):
    report = analyse_config(config, {**SHAPE, 'divisor': 8})
    assert report.settings['divisor'] == 8
    # every group at eight channels
    lowest = 64 * 9 * 8 * (3 + 8 + 8)
    lowest += (16 + 4) * 8 * 8 * (9 + 9 + 1) + 8 * 10
    assert report.minimum == pytest.approx(lowest / report.flops)
    assert set(report.floors.values()) == {8}


def test_a_divisor_counts_the_channels_of_heads():
    """A head of eight channels is a multiple of eight."""

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(
                32, 4, 24, batch_first=True
            )

        def forward(self, image, samples, mode):
            return self.layer(image.flatten(2))

    settings = {**SETTINGS, 'input_shape': (2, 1, 32), 'divisor': 8}
    report = analyse_model(Attending().eval(), settings)
    assert sorted(report.floors.values()) == [1, 8]
    assert list(report.heads.values()) == [8]
    # Two tokens: one head of four, eight hidden units of 24.
    heads = 2 * (4 * 8 * 32) + 2 * (2 * 2 * 8)
    assert report.minimum == pytest.approx(
        (heads + 2 * (2 * 8 * 32)) / report.flops
    )


def test_a_floor_raises_the_minimum(config):
    report = analyse_config(config, {**SHAPE, 'min_keep': 0.5})
    # Half of the 16, 32 and 64 channels, inside blocks and outside.
    assert set(report.floors.values()) == {8, 16, 32}
    lowest = 64 * 9 * 8 * (3 + 8 + 8)
    lowest += 16 * 16 * (9 * 8 + 9 * 16 + 8)
    lowest += 4 * 32 * (9 * 16 + 9 * 32 + 16) + 32 * 10
    assert report.minimum == pytest.approx(lowest / report.flops)


def test_a_floor_of_what_nothing_goes_around(config):
    """Of a ResNet those are the streams, and no inner width."""
    report = analyse_config(config, {**SHAPE, 'min_keep': 'sole_path'})
    inner = {n: f for n, f in report.floors.items() if n.endswith('.conv1')}
    inner.pop('backbone.conv1')
    assert set(inner.values()) == {1}
    streams = [f for n, f in report.floors.items() if n not in inner]
    assert sorted(streams) == [8, 16, 32]


def test_channels_that_would_be_squeezed_away_keep_two():
    """As in the phase, whatever the unit needs."""

    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole = nn.Conv2d(3, 8, 1)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, image, samples, mode):
            return self.last(self.whole(image).squeeze())

    report = analyse_model(Squeezed().eval(), SETTINGS)
    assert report.floors == {'whole': 2}
    # 16 positions; 2 of 8 channels on both sides of `whole`.
    assert report.minimum == pytest.approx((3 * 2 + 2 * 2) / (3 * 8 + 8 * 2))


def test_settings_of_a_lapp_config_count(lapp_config):
    report = analyse_config(lapp_config)
    assert report.settings == dict(
        input_shape=[3, 8, 8],
        scope='backbone',
        ignore=['*.conv1'],
        keep_streams=False,
        unit='channels',
        bypass=None,
        divisor=1,
        min_keep=None,
        unused=[],
    )
    layers = {layer.name: layer for layer in report.layers}
    assert layers['backbone.layer1.0.conv1'].reason == 'ignored by the user'
    # The outer channels of layer1 are those of the stem.
    tied = layers['backbone.layer1.0.conv2'].reason
    assert tied == 'ignored by the user: backbone.conv1'
    # Numbers are those of the prunable groups alone.
    assert layers['backbone.layer2.0.conv2'].groups == (1,)
    assert next(iter(report.groups)) == 'backbone.layer2.0.downsample.0'
    # the command line comes first
    report = analyse_config(lapp_config, dict(ignore=()))
    assert 'backbone.layer1.0.conv1' in report.groups


def test_bypasses(config):
    settings = dict(bypass='depthwise', unit='filters')
    report = analyse_config(config, {**SHAPE, **settings})
    layers = {layer.name: layer for layer in report.layers}
    assert report.bypass_flops > 0
    assert report.flops == sum(layer.flops for layer in report.layers)
    # With fill each convolution stands alone and may vanish; what is left
    # are the bypasses and the layers without one.
    rest = sum(v.flops for v in layers.values() if not v.prunable)
    assert report.minimum == pytest.approx(
        (rest + report.bypass_flops) / report.flops
    )
    assert layers['backbone.layer1.0.conv1'].prunable == 16


def test_stripes(config):
    report = analyse_config(config, {**SHAPE, 'unit': 'stripes'})
    layers = {layer.name: layer for layer in report.layers}
    stem = layers['backbone.conv1']
    (number,) = stem.groups
    assert list(report.groups)[number - 1] == 'backbone.conv1'
    assert stem.prunable == 0
    assert stem.reason.startswith('stripes alone; several layers emit')
    assert report.groups['backbone.conv1'] == 16 * 9
    assert layers['backbone.layer1.0.conv1'].prunable == 16
    # Layers of a single position in a residual stream.
    whole = [layer.flops for layer in layers.values() if not layer.groups]
    assert len(whole) == 3
    share = 1 - sum(whole) / report.flops
    assert report.prunable_share == pytest.approx(share)


def test_scope_must_match(config):
    with pytest.raises(PruningError, match="scope='encoder' matches no"):
        analyse_config(config, {**SHAPE, 'scope': ['encoder']})


SETTINGS = dict(
    input_shape=(3, 4, 4),
    scope='*',
    ignore=(),
    unit='channels',
    bypass=None,
    divisor=1,
)


def test_tracing_may_fail(monkeypatch):
    def fail(*args):
        raise RuntimeError('cannot be traced\nbecause')

    monkeypatch.setattr(analysis, 'operator_flops', fail)
    report = analyse_model(JoinedLayers().eval(), SETTINGS)
    assert report.mmengine_flops is None
    assert report.foreign == 'not known (RuntimeError: cannot be traced)'
    assert report.flops == 16 * (3 * 8 + 3 * 8 + 8 * 2)


def test_tables_and_json(tmp_path):
    report = analyse_model(JoinedLayers().eval(), SETTINGS)
    with open(tmp_path / 'tables', 'w', encoding='utf-8') as file:
        out = console(file)
        out.print(layers_table(report))
        out.print(totals_table(report))
    lines = (tmp_path / 'tables').read_text(encoding='utf-8').splitlines()
    rows = [[cell.strip() for cell in row.split('│')[1:-1]] for row in lines]
    assert ['whole', '3 → 8', '384', '37.50%', '1, 2', 'yes'] in rows
    last = ['last', '8 → 2', '256', '25.00%', '']
    assert [*last, 'no: output of the network'] in rows
    assert ['FLOPs at 3x4x4', '1,024 (1.02k)'] in rows
    assert ['prunable groups', '2, with 8 channels'] in rows
    data = json.loads(json.dumps(report.to_dict()))
    assert data['layers'][0]['name'] == 'whole'
    assert data['layers'][0]['groups'] == [1, 2]
