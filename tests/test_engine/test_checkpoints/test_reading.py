# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import os
import tracemalloc
from argparse import Namespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mutations import mutate_file
from packaging.version import Version
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints import reading
from mmlapp.engine.checkpoints.reading import load_checkpoint, read_trained


class Command:
    """Pickles to a call that would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Getter:
    """Pickles to the globals of a function, where everything begins."""

    def __reduce__(self):
        return getattr, (HistoryBuffer.min, '__globals__')


@pytest.fixture
def save(tmp_path):
    def run(**data):
        torch.save(data, tmp_path / 'a.pth')
        return tmp_path / 'a.pth'

    return run


def test_what_mmengine_saves_is_read(save):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    history.update(3.0)
    scalars = [np.float64(1.5), np.int64(3), np.bool_(True)]
    path = save(
        state_dict={'w': torch.ones(2)},
        message_hub={'loss': history, 'others': scalars},
        arrays=[np.arange(3), np.ones(2, np.float32), np.array(['a'])],
    )
    data = load_checkpoint(path)
    assert data['message_hub']['loss'].current() == 3.0
    assert data['message_hub']['others'] == scalars
    assert data['arrays'][0].tolist() == [0, 1, 2]


@pytest.mark.parametrize('kind', ['namespace', 'command', 'globals'])
def test_other_objects_are_refused(save, tmp_path, kind):
    made = tmp_path / 'made'
    evil, name = {
        'namespace': (Namespace(a=1), 'argparse.Namespace'),
        'command': (Command(made), r'posix\.mkdir'),
        'globals': (Getter(), 'attributes of other objects'),
    }[kind]
    path = save(state_dict={}, extra=evil)
    text = f"a.pth' holds objects that are not read, .*: {name}"
    with pytest.raises(PruningError, match=text):
        load_checkpoint(path)
    assert not made.exists()


@pytest.fixture
def old_torch(monkeypatch):
    monkeypatch.setattr(reading, 'TORCH', Version('2.5.1'))


def test_an_old_torch_reads_plain_files(save, old_torch):
    data = load_checkpoint(save(state_dict={'w': torch.ones(2)}, epoch=3))
    assert data['state_dict']['w'].tolist() == [1, 1]
    assert data['epoch'] == 3


def test_an_old_torch_runs_no_code_either(save, tmp_path, old_torch):
    made = tmp_path / 'made'
    text = r"a\.pth' holds objects .* torch 2\.5\.1 reads .*torch>=2\.6"
    for evil in (Command(made), HistoryBuffer([1.0], [1])):
        with pytest.raises(PruningError, match=text):
            load_checkpoint(save(state_dict={}, extra=evil))
    assert not made.exists()


@pytest.mark.parametrize(
    'content', [b'', b'hello', b'{"version": 3}', b'\xff', b'PK\x03\x04']
)
def test_files_that_are_no_checkpoints(tmp_path, content):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    with pytest.raises(PruningError, match=r"a\.pth' cannot be read: it is t"):
        load_checkpoint(path)


def test_missing_files_and_other_contents(tmp_path):
    path = tmp_path / 'a.pth'
    with pytest.raises(PruningError, match='there is no such file'):
        load_checkpoint(path)
    with pytest.raises(PruningError, match='is a folder: give a file in it'):
        load_checkpoint(tmp_path)
    torch.save([1], path)
    with pytest.raises(PruningError, match='is no checkpoint of MMEngine'):
        load_checkpoint(path)


def test_the_format_without_checksums_is_read_only_if_asked_for(tmp_path):
    path = tmp_path / 'a.pth'
    data = {'state_dict': {'w': torch.ones(2)}}
    torch.save(data, path, _use_new_zipfile_serialization=False)
    with pytest.raises(PruningError, match=r"a\.pth' is in the format of tor"):
        load_checkpoint(path)
    found = load_checkpoint(path, legacy=True)
    assert found['state_dict']['w'].tolist() == [1, 1]
    evil = {'state_dict': {}, 'x': Command(tmp_path / 'made')}
    torch.save(evil, path, _use_new_zipfile_serialization=False)
    with pytest.raises(PruningError, match='holds objects that are not read'):
        load_checkpoint(path, legacy=True)
    assert not (tmp_path / 'made').exists()


def test_damaged_files_are_refused_or_mean_the_same(save):
    """Whatever happened to them; no other exception, no other weights."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    path = save(state_dict=model.state_dict(), meta={'epoch': 3})
    data, whole, refused = path.read_bytes(), load_checkpoint(path), 0
    for seed in range(300):
        path.write_bytes(mutate_file(data, seed))
        try:
            found = load_checkpoint(path)
        except PruningError:
            refused += 1
            continue
        assert found['meta'] == whole['meta'], f'seed {seed}'
        assert list(found['state_dict']) == list(whole['state_dict'])
        for name, value in whole['state_dict'].items():
            assert torch.equal(found['state_dict'][name], value), (
                f'seed {seed}'
            )
    assert refused > 250


class Wide:
    """Pickles to an array of a terabyte, as a forged file has it."""

    def __reduce__(self):
        return (
            np.ones(1).__reduce__()[0],
            (np.ndarray, (10**12,), b'b'),
            (1, (1,), np.dtype('f8'), False, bytes(8)),
        )


def test_an_array_takes_the_memory_of_its_values(save):
    tracemalloc.start()
    assert load_checkpoint(save(x=Wide()))['x'].tolist() == [0.0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**7


@pytest.mark.parametrize(
    ('entries', 'text'),
    [
        ({'state_dict': [1]}, "state_dict of .*a.pth' is a list: expected"),
        ({'state_dict': {'w': 1.5}}, 'w is of type float, expected a dense'),
        ({'state_dict': {}, 'meta': [1]}, 'its meta is a list'),
        ({'other': {}}, 'has no state_dict'),
        (
            {
                'state_dict': {
                    'pruner.gate': torch.ones(2),
                    'pruner.progress': torch.ones(()),
                }
            },
            r'pruner\.progress of the state dict is \[1\.0\], which no',
        ),
        (
            {
                'state_dict': {
                    'pruner.gate': torch.tensor([1, float('nan')]),
                    'pruner.progress': torch.tensor([2.0, 5, 5, 0.5]),
                }
            },
            r"a\.pth': pruner\.gate of the state dict holds nan",
        ),
        (
            {
                'state_dict': {
                    'pruner.gate': torch.ones(2),
                    'pruner.progress': torch.tensor([7.0, 5, 5, 0.5]),
                }
            },
            r'pruner\.progress of the state dict is \[7\.0, .* no pruner has',
        ),
        (
            {
                'state_dict': {
                    'pruner.gate': torch.ones(2),
                    'pruner.progress': torch.tensor([2.0, 6, 5, 0.5]),
                }
            },
            r'pruner\.progress of the state dict is \[2\.0, .* no pruner has',
        ),
        (
            {
                'state_dict': {
                    'pruner.gate': torch.ones(2, 2),
                    'pruner.progress': torch.tensor([2.0, 5, 5, 0.5]),
                }
            },
            r'pruner\.gate of the state dict is of shape \(2, 2\)',
        ),
    ],
)
def test_contents_that_are_no_trained_model(save, entries, text):
    with pytest.raises(PruningError, match=text):
        read_trained(save(**entries))


def test_weights_and_state_are_told_apart(save):
    tensors = {
        'conv.weight': torch.ones(1),
        'pruner.gate': torch.ones(2),
        'pruner.progress': torch.tensor([2, 5, 5, 0.5]),
    }
    trained = read_trained(save(state_dict=tensors, meta={'epoch': 3}))
    assert list(trained.weights) == ['conv.weight']
    assert list(trained.state) == ['gate', 'progress']
    assert trained.plans == ()
    assert trained.masked
    assert trained.meta == {'epoch': 3}
    assert not trained.averaged


@pytest.mark.parametrize('added', ['module.', '_orig_mod.'])
def test_names_of_wrappers_are_taken_off(save, added):
    tensors = {
        'conv.weight': torch.ones(1),
        'pruner.gate': torch.ones(2),
        'pruner.progress': torch.tensor([2, 5, 5, 0.5]),
    }
    wrapped = {f'{added}{name}': value for name, value in tensors.items()}
    trained = read_trained(save(state_dict=wrapped))
    assert list(trained.weights) == ['conv.weight']
    assert list(trained.state) == ['gate', 'progress']
