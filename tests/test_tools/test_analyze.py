# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
import math
import re

import pytest

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=8,
        stem_channels=8,
        init_cfg=dict(type='Pretrained', checkpoint='http://nowhere/x.pth'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
data_preprocessor = dict(mean=[0.0] * 3, std=[1.0] * 3)
"""


@pytest.fixture(scope='module')
def tool(load_tool):
    return load_tool('analyze')


@pytest.fixture
def analyse(tool, tmp_path, capsys):
    """Runs the tool on a plain config; returns its standard output."""

    def run(*argv, text=CONFIG):
        path = tmp_path / 'config.py'
        path.write_text(text)
        shape = ['--input-shape', '3', '32', '32']
        tool.main([str(path), *shape, *argv])
        return capsys.readouterr().out

    return run


def test_tables_of_a_plain_config(analyse):
    out = analyse()
    assert 'backbone.layer4.1.conv2' in out
    assert 'no: output of the network' in out
    assert 'reachable minimum' in out
    assert re.search(r'│ +1 │ backbone.conv1 +│ +8 │ +1 │', out)


def test_json_on_standard_output_is_nothing_but_json(analyse):
    # what configs and imports print goes elsewhere
    text = f"print('noise'){CONFIG}"
    report = json.loads(analyse('--json', '-', text=text))
    assert report['settings'] == dict(
        input_shape=[3, 32, 32],
        scope='backbone',
        ignore=[],
        keep_streams=False,
        unit='channels',
        bypass=None,
        divisor=1,
        min_keep=None,
        unused=[],
    )


def test_json_in_a_file_comes_beside_the_tables(analyse, tmp_path):
    path = tmp_path / 'analysis.json'
    assert 'reachable minimum' in analyse('--json', str(path))
    report = json.loads(path.read_text())
    assert report['flops'] == report['mmengine_flops']


def test_arguments(analyse, tmp_path):
    path = tmp_path / 'analysis.json'
    analyse(
        '--scope', 'backbone.layer3', 'backbone.layer4',
        '--ignore', '*.conv2',
        '--bypass', 'grouped',
        '--no-keep-streams',
        '--unit', 'filters',
        '--divisor', '4',
        '--min-keep', '0.3',
        '--unused', 'head.fc',
        '--cfg-options', 'model.head.num_classes=7',
        '--json', str(path),
    )  # fmt: skip
    report = json.loads(path.read_text())
    assert report['settings'] == dict(
        input_shape=[3, 32, 32],
        scope=['backbone.layer3', 'backbone.layer4'],
        ignore=['*.conv2'],
        keep_streams=False,
        unit='filters',
        bypass='grouped',
        divisor=4,
        min_keep=0.3,
        unused=['head.fc'],
    )
    assert report['layers'][-1]['outputs'] == 7
    # 0.3 of each group, and a multiple of 4.
    assert report['floors'] == {
        name: 4 * math.ceil(math.ceil(0.3 * size) / 4)
        for name, size in report['groups'].items()
    }
    assert all('layer2' not in name for name in report['groups'])
    assert all('conv2' not in name for name in report['groups'])
    assert 'backbone.layer3.0.conv1' in report['groups']


def test_streams_that_stay_whole_are_told_as_such(analyse):
    out = analyse('--keep-streams')
    assert 'no: of a residual stream, left whole by keep_streams=True' in out
    assert not re.search('│ backbone.conv1 +│ +8 │ +1 │', out)


@pytest.mark.parametrize(
    ('argv', 'text'),
    [
        (['--scope', 'encoder'], "scope='encoder' matches no"),
        (['--bypass', 'wide'], "bypass='wide' is unknown; choose one of"),
        (['--divisor', '0'], 'divisor=0: expected a whole number'),
        (['--min-keep', '2'], 'min_keep=2.0: expected a number from 0 to 1'),
        (['--min-keep', 'wide'], "min_keep='wide' is unknown; choose one of"),
        (['--unit', 'filters'], "unit='filters' needs a bypass"),
        (['--unit', 'blocks'], "unit='blocks' is unknown; choose one of"),
        (
            ['--input-shape', '1', '9', '9'],
            'does not run on input_shape=(1, 9',
        ),
    ],
)
def test_errors_are_one_line(analyse, argv, text):
    with pytest.raises(SystemExit) as info:
        analyse(*argv)
    assert info.value.code.startswith('error: ')
    assert text in info.value.code


def test_a_missing_config(tool, tmp_path):
    with pytest.raises(SystemExit, match=r'error: .*nowhere\.py'):
        tool.main([str(tmp_path / 'nowhere.py')])
