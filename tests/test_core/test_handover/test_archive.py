# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mutations import (
    archive_of,
    compress,
    drop_entry,
    entries_of,
    repeat_entry,
    swap_contents,
    swap_names,
)

from mmlapp.core.handover import archive
from mmlapp.core.handover.archive import describe, find_damage


class Fixed:
    """Instead of a generator of random numbers."""

    def __init__(self, first, second=None):
        self.pair = [first, second]

    def choice(self, entries):
        return entries[self.pair[0]]

    def randrange(self, size):
        return range(size)[self.pair[0]]

    def sample(self, population, count):
        return self.pair


@pytest.fixture
def path(tmp_path):
    """Of torch.save, with three storages of one size."""
    path = tmp_path / 'a.pth'
    torch.save(
        {k: torch.full((9,), float(i)) for i, k in enumerate('abc')}, path
    )
    return path


@pytest.fixture
def numbers(path):
    """Places of the records of the storages."""
    names = [name for name, _ in entries_of(path.read_bytes())]
    return [i for i, name in enumerate(names) if '/data/' in name]


def test_what_torch_saves_is_whole(path, tmp_path):
    assert find_damage(path) is None
    many = tmp_path / 'many.pth'
    torch.save({str(i): torch.zeros(1) + i for i in range(12)}, many)
    assert find_damage(many) is None


@pytest.mark.parametrize('sizes', [[0], [0, 9], [9, 0], [9, 0, 0, 9], [9, 9]])
def test_tensors_without_elements(tmp_path, sizes):
    """Such as anchors that are computed later, and filters that are gone.

    torch leaves them out of its checksum; what lies around them is checked.
    """
    path = tmp_path / 'a.pth'
    saved = {str(i): torch.full((n, 2), i + 1.0) for i, n in enumerate(sizes)}
    torch.save({**saved, 'view': torch.ones(4)[:0]}, path)
    assert find_damage(path) is None
    data = path.read_bytes()
    # [9, 2] in float32.
    full = [i for i, (_, c) in enumerate(entries_of(data)) if len(c) == 72]
    if len(full) > 1:
        path.write_bytes(swap_contents(data, Fixed(*full)))
        assert 'written together' in find_damage(path)


def test_storages_in_the_order_of_older_releases(path, tmp_path):
    """They wrote 0, 1, 10, 11, 2."""
    many = tmp_path / 'many.pth'
    torch.save({str(i): torch.zeros(1) + i for i in range(12)}, many)
    entries = [
        entry
        for entry in entries_of(many.read_bytes())
        if 'serialization_id' not in entry[0]
    ]
    entries.sort()
    many.write_bytes(archive_of(entries))
    assert find_damage(many) is None


def test_every_flipped_bit_of_a_weight_is_found(path):
    data = path.read_bytes()
    at = data.index(torch.full((9,), 2.0).numpy().tobytes())
    for bit in range(0, 36 * 8, 5):
        damaged = bytearray(data)
        damaged[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert 'is damaged' in find_damage(path)


def test_every_truncated_file_is_found(path):
    data = path.read_bytes()
    for size in range(4, len(data), 31):
        path.write_bytes(data[:size])
        assert find_damage(path)


def test_equal_storages_that_changed_places(path, numbers):
    """Sizes and checksums of the records are right."""
    data = path.read_bytes()
    places = Fixed(numbers[0], numbers[1])
    path.write_bytes(swap_contents(data, places))
    assert torch.load(path)['a'][0] == 1
    assert 'written together' in find_damage(path)
    path.write_bytes(swap_names(data, places))
    assert torch.load(path)['a'][0] == 1
    assert 'not in order' in find_damage(path)


def test_another_way_to_compute_the_checksum_is_no_damage(
    path, numbers, monkeypatch
):
    """Releases of torch to come may compute it in another way."""
    path.write_bytes(swap_contents(path.read_bytes(), Fixed(*numbers[:2])))
    monkeypatch.setattr(archive, '_knows_checksum', lambda: False)
    assert find_damage(path) is None


def test_other_archives(path, numbers):
    data = path.read_bytes()
    path.write_bytes(compress(data, None))
    assert 'is compressed' in find_damage(path)
    path.write_bytes(repeat_entry(data, Fixed(numbers[0])))
    assert 'data/0 twice' in find_damage(path)
    path.write_bytes(drop_entry(data, Fixed(0)))
    assert find_damage(path) == 'it is an archive, but none of torch.save'


@pytest.mark.parametrize('module', [b'builtins', b'__builtin__'])
def test_a_pickle_that_asks_for_memory(path, module):
    """Torch would make a bytearray of 2 ** 40 zeros."""
    entries = dict(entries_of(path.read_bytes()))
    name = next(name for name in entries if name.endswith('/data.pkl'))
    call = b'c' + module + b'\nbytearray\n\x8a\x06' + bytes(5) + b'\x01\x85R'
    entries[name] = b'\x80\x02}X\x01\x00\x00\x00a' + call + b's.'
    kept = [e for e in entries.items() if 'serialization_id' not in e[0]]
    path.write_bytes(archive_of(kept))
    assert 'data.pkl: it asks for memory' in find_damage(path)


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        (b'', 'it is empty'),
        (b'model = dict(', 'it is a text'),
        (b'model = {"type": 1}', 'it is a text'),
        (b'\x02' + bytes(7) + b'{}', 'of safetensors, which load_slim reads'),
        (b'\x03' + bytes(7) + b'{}', 'it is a text'),
        (b'{"version": 3', 'it is a text'),
        (b'\x80\x02\x8a', 'it is a pickle'),
        (b'\xff\xd8\xff\xe0', 'does not begin as'),
    ],
)
def test_what_is_no_archive(tmp_path, content, text):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    assert text in describe(path)
