# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import exports
import pytest
from mmengine.config import Config
from zoo.networks import read_list
from zoo.run import Measure, run_all

from mmlapp.engine.deployment.recipe import dense_config

ROOT = Path(__file__).parents[2]


def test_a_network_in_two_formats(entry, monkeypatch):
    monkeypatch.setattr(exports, 'FORMATS', ('torchscript', 'plain'))
    row = exports.measure_exports(entry)
    assert (row['name'], row['failed'], row['outputs']) == ('small', None, 1)
    assert row['part'] == 'the whole network'
    assert 0.04 < row['kept'] < 0.81
    assert list(row['formats']) == ['torchscript', 'plain']
    for cell in row['formats'].values():
        assert cell['error'] <= 1e-4
        assert cell['open'] == 'batch'
    assert json.loads(json.dumps(row)) == row


def test_the_batch_is_fixed_where_it_must_be(entry, tmp_path, monkeypatch):
    slim, images = exports.random_slim(entry)
    write = exports._write

    def only_fixed(slim, images, name, folder, dynamic):
        if dynamic == 'batch':
            raise exports.PruningError('the batch is a number')
        return write(slim, images, name, folder, dynamic)

    monkeypatch.setattr(exports, '_write', only_fixed)
    cell = exports.attempt(slim, images, 'torchscript', tmp_path)
    assert cell['open'] == 'none'
    cell = exports.attempt(slim, images, 'plain', tmp_path)
    assert cell == {'reason': 'the batch is a number'}

    def never(slim, images, name, folder, dynamic):
        raise exports.PruningError(f'not with {dynamic}')

    monkeypatch.setattr(exports, '_write', never)
    cell = exports.attempt(slim, images, 'torchscript', tmp_path)
    assert cell == {'reason': 'not with none'}


def test_what_fails_has_its_reason(tmp_path):
    (entry,) = read_list(f'{tmp_path}/none.py 32')
    row = exports.measure_exports(entry)
    assert row['name'] == 'none'
    assert row['failed'].startswith('FileNotFoundError: ')


def test_rows_of_a_table():
    fine = dict(error=2e-7, open='batch')
    cells = dict.fromkeys(exports.FORMATS, fine)
    cells['onnx'] = dict(error=3e-6, open='none', undecided=1)
    cells['plain'] = dict(reason='no such thing')
    rows = [
        dict(
            name='a',
            failed=None,
            part='all',
            outputs=2,
            kept=0.5,
            formats=cells,
        ),
        exports.failed(read_list('b.py')[0], 'late'),
    ]
    lines = exports.markdown(rows, '# Title').splitlines()
    row = '| a | all | 2 | 50.0% | 3e-06*† | 2e-07 | 2e-07 | no | 2e-07 |'
    assert row in lines
    assert '- a, plain: `no such thing`' in lines
    assert '- b: `late`' in lines
    counts = '2 networks, 1 ran. Files that agree: onnx 1, torch_export 1, '
    assert [line for line in lines if line.startswith(counts)]


def test_what_is_finished_is_not_measured_again(entry, tmp_path):
    out = tmp_path / 'exports.json'
    known = dict(name='small', failed=None, formats={})
    out.write_text(json.dumps([known]))
    asked = Measure(exports.measure_exports, exports.failed)
    assert run_all([entry], out, asked=asked) == [known]


def test_a_table_of_what_there_is(entry, tmp_path, capsys):
    """The other one is named as not run."""
    out = tmp_path / 'exports.json'
    out.write_text(json.dumps([exports.failed(entry, 'broken')]))
    names = tmp_path / 'list.txt'
    names.write_text(f'# Mine\n\n{entry.config} 32\nother.py 32\n')
    exports.main([str(names), '--json', str(out), '--table'])
    assert capsys.readouterr().out.startswith('2 networks, 0 ran.')
    lines = out.with_suffix('.md').read_text('utf-8').splitlines()
    assert lines[0] == '# Mine'
    assert '- small: `broken`' in lines
    assert '- other: `not run`' in lines


@pytest.mark.slow
def test_every_model_of_the_configs_is_in_the_list():
    """Equal but for what reaches no weight, such as the loss."""
    text = exports.LIST.read_text('utf-8')
    listed = [e.config for e in read_list(text) if '::' not in e.config]

    def models(paths):
        found = {}
        for path in paths:
            model = dense_config(Config.fromfile(ROOT / path))
            parts = [model.type, model.backbone, model.get('bbox_head', '')]
            parts[1].pop('frozen_stages', None)
            if parts[2]:
                parts[2] = parts[2].get('type')
            parts[1].pop('init_cfg', None)
            found.setdefault(str(parts), path)
        return found

    ours = sorted((ROOT / 'configs').glob('[!_]*/*.py'))
    known, wanted = models(listed), models(ours)
    assert [path for key, path in wanted.items() if key not in known] == []


def test_every_detector_of_the_zoo_is_in_the_list():
    lists = [
        {entry.config for entry in read_list(path.read_text('utf-8'))}
        for path in (exports.LIST, exports.LIST.with_name('detectors.txt'))
    ]
    assert lists[1] < lists[0]
