# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmlapp'])
print('noise')
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
data_preprocessor = dict(mean=[0.0] * 3, std=[1.0] * 3)
"""


@pytest.fixture
def compare(load_tool, tmp_path, capsys):
    """Runs the tool on a plain config; returns its standard output."""
    tool = load_tool('criteria')

    def run(*argv):
        path = tmp_path / 'config.py'
        path.write_text(CONFIG)
        shape = ['--input-shape', '3', '16', '16']
        out = ['--out', str(tmp_path / 'page.html')]
        tool.main([str(path), *shape, *out, *argv])
        return capsys.readouterr().out

    return run


def test_a_page_json_and_what_to_know(compare, tmp_path):
    out = compare('--scores', 'l1', 'fpgm', '--flops', '0.4')
    assert 'noise' not in out
    assert out.startswith('warning: no checkpoint')
    assert f'wrote {tmp_path / "page.html"}' in out
    page = (tmp_path / 'page.html').read_text('utf-8')
    data = json.loads((tmp_path / 'page.json').read_text('utf-8'))
    assert data['scores'] == ['l1', 'fpgm']
    assert data['target'] == {'flops': 0.4}
    for group in data['groups']:
        assert group['name'] in page
        assert group['channels'] >= group['kept']['l1'] > 0


def test_scope_and_what_is_left_out(compare, tmp_path):
    out = compare('--scope', 'backbone.layer3', '--flops', '0.9')
    assert 'left out: taylor: it looks at calibration batches' in out
    data = json.loads((tmp_path / 'page.json').read_text('utf-8'))
    assert all('layer3' in group['name'] for group in data['groups'])
    assert {'taylor', 'kl_divergence'} <= set(data['left_out'])


@pytest.mark.parametrize(
    ('argv', 'text'),
    [
        (['nowhere.pth'], "checkpoint='nowhere.pth': there is no such file"),
        (['--scores', 'l9'], "score='l9' is unknown; choose one of"),
        (
            ['--scores', 'taylor'],
            'score=taylor: it looks at calibration batches',
        ),
        (['--flops', '3'], 'target flops=3.0: expected a fraction'),
        (['--batches', '2'], 'the config has no train_dataloader'),
        (['--out', 'page.pdf'], "out='page.pdf': expected the name of a page"),
        (['--out', '/proc/a/page.html'], 'cannot be written '),
    ],
)
def test_errors_are_one_line(compare, argv, text):
    with pytest.raises(SystemExit) as info:
        compare(*argv)
    assert info.value.code.startswith('error: ')
    assert text in info.value.code
    assert '\n' not in info.value.code
