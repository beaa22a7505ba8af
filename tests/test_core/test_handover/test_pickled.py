# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mutations import archive_of, entries_of

from mmlapp.core import PruningError
from mmlapp.core.handover.pickled import (
    asks_for_memory,
    legacy_asks_for_memory,
)
from mmlapp.engine.checkpoints.reading import load_checkpoint

HUGE = 2**40
SCALAR = np.float64(1).__reduce__()[0]
FROM_TYPE = torch._tensor._rebuild_from_type_v2
QUANTIZED = torch._utils._rebuild_qtensor


class Call:
    """Pickles to a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Made(torch.Tensor):
    """A type of tensor of somebody's own."""


def with_attributes(tensor):
    tensor.tag = 'kept in the pickle'
    return tensor


def everything():
    """All that torch and MMEngine save, so that nothing is refused."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    codes = torch.quantize_per_tensor(torch.ones(4, 9), 1.0, 0, torch.qint8)
    weight = torch.nn.Parameter(torch.ones(3))
    types = [torch.float16, torch.float64, torch.complex64, torch.bool]
    types += [torch.float8_e4m3fn, torch.bfloat16, torch.int64]
    own = torch.ones(2).as_subclass(Made)
    return {
        'kinds': [torch.ones(5).to(kind) for kind in types],
        'views': [torch.ones(9)[2:4], torch.ones(1).expand(HUGE)],
        'others': [codes, torch.eye(9).to_sparse(), torch.ones(0)],
        'wide': torch.sparse_coo_tensor([[1], [2]], [1.0], (2**20, 2**20)),
        'meta': torch.ones(HUGE, device='meta'),
        'typed': [with_attributes(torch.ones(2)), own],
        'parameters': [weight, with_attributes(torch.nn.Parameter(weight))],
        'storages': [torch.ones(3).untyped_storage(), torch.Size([HUGE])],
        'arrays': [np.ones((3, 4)), np.array(['a']), np.float32(2)],
        'history': history,
        'rest': OrderedDict(a={1, 2}, b=3j, c=torch.device('cpu'), d=HUGE),
    }


def pickle_in(path):
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith('/data.pkl')]
        return io.BytesIO(archive.read(name))


@pytest.mark.parametrize('archive', [True, False])
def test_what_is_saved_asks_for_nothing(tmp_path, archive):
    path = tmp_path / 'a.pth'
    torch.save(everything(), path, _use_new_zipfile_serialization=archive)
    if archive:
        size = path.stat().st_size
        assert asks_for_memory(pickle_in(path), size) is None
    else:
        assert legacy_asks_for_memory(path) is None


FORGED = {
    'bytearray': Call(bytearray, HUGE),
    'UntypedStorage': Call(torch.UntypedStorage, HUGE),
    'FloatTensor': Call(torch.FloatTensor, HUGE),
    'Tensor': Call(torch.Tensor, HUGE),
    'LongTensor': Call(torch.LongTensor, 2**20, 2**20),
    'ndarray': Call(np.ndarray, (HUGE,), 'b'),
    'from type': Call(FROM_TYPE, torch.FloatTensor, torch.Tensor, (HUGE,), 0),
    'twice': Call(
        FROM_TYPE,
        FROM_TYPE,
        torch.Tensor,
        (torch.FloatTensor, torch.Tensor, (HUGE,), 0),
        0,
    ),
    'quantized': Call(QUANTIZED, 0, 0, (2**20, 2**20), (1, 1), (0,), 0, 0),
}


@pytest.mark.parametrize('name', FORGED)
@pytest.mark.parametrize('archive', [True, False])
def test_what_is_forged_is_refused_before_it_is_made(tmp_path, name, archive):
    path, forged = tmp_path / 'a.pth', {'a': FORGED[name]}
    torch.save(forged, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(PruningError, match=r'a\.pth.*it asks for memory, for'):
        load_checkpoint(path, legacy=True)


def test_a_scalar_has_a_value(tmp_path):
    """NumPy makes one of zeros, as long as its type says."""
    path = tmp_path / 'a.pth'
    torch.save({'a': Call(SCALAR, np.dtype(f'S{2**30}'))}, path)
    with pytest.raises(PruningError, match='cannot be read'):
        load_checkpoint(path)


def longer(data):
    """The storage of 7 numbers has 2**28 of them."""
    forged = data.replace(b'K\x07t', b'J\x00\x00\x00\x10t')
    forged = forged.replace(b'K\x07N', b'J\x00\x00\x00\x10N')
    assert forged != data
    return forged


def test_a_storage_is_in_the_file(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'a': torch.ones(7)}, path)
    entries = [
        (name, longer(data) if name.endswith('data.pkl') else data)
        for name, data in entries_of(path.read_bytes())
        if 'serialization_id' not in name
    ]
    path.write_bytes(archive_of(entries))
    with pytest.raises(PruningError, match=r'268435456 elements of torch\.Fl'):
        load_checkpoint(path)


def test_a_storage_is_in_an_old_file(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(
        {'a': torch.ones(7)}, path, _use_new_zipfile_serialization=False
    )
    path.write_bytes(longer(path.read_bytes()))
    with pytest.raises(PruningError, match=r'268435456 elements of torch\.Fl'):
        load_checkpoint(path, legacy=True)


def test_nothing_that_is_named_is_imported_or_called():
    data = pickle.dumps([Call(pytest.fail, 'called')], 2)
    assert asks_for_memory(io.BytesIO(data), 1) is None
    assert asks_for_memory(io.BytesIO(b'\x80\x02cno\nsuch\n)R.'), 1) is None


def test_damage_is_said():
    assert asks_for_memory(io.BytesIO(b'\x80\x02}'), 1).startswith('EOFErr')
