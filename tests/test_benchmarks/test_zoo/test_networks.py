# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from collections import Counter
from pathlib import Path

import pytest
from mmengine.utils import get_installed_path
from zoo import NETWORKS, Entry, read_list

from mmlapp.core import PruningError


def test_the_list_covers_both_packages():
    found = Counter(e.config.partition('::')[0] for e in NETWORKS)
    assert found['mmpretrain'] >= 46
    assert found['mmdet'] >= 26
    assert len({e.name for e in NETWORKS}) == len(NETWORKS)


@pytest.mark.parametrize('entry', NETWORKS, ids=lambda e: e.name)
def test_every_config_is_installed(entry):
    package, _, path = entry.config.partition('::')
    root = Path(get_installed_path(package)) / '.mim' / 'configs'
    assert (root / f'{path}.py').is_file()


def test_whole_detectors_of_every_type():
    path = Path(__file__).parents[3] / 'benchmarks' / 'detectors.txt'
    entries = read_list(path.read_text('utf-8'))
    configs = Path(get_installed_path('mmdet')) / '.mim' / 'configs'
    names = [entry.config.removeprefix('mmdet::') for entry in entries]
    assert [n for n in names if not (configs / f'{n}.py').is_file()] == []
    assert len({name.partition('/')[0] for name in names}) >= 25
    assert {entry.scope for entry in entries} == {('*',)}


def test_a_list_of_ones_own():
    text = 'a.py\n\n# nothing\nb.py 64 # small\nc.py 1x8x9 a,b 0.8\n'
    assert read_list(text) == [
        Entry('a.py', (3, 128, 128), ('*',), 0.95),
        Entry('b.py', (3, 64, 64), ('*',), 0.95),
        Entry('c.py', (1, 8, 9), ('a', 'b'), 0.8),
    ]


@pytest.mark.parametrize(
    ('text', 'match'),
    [
        ('# none', 'names no config'),
        ('a.py big', "line 1, size 'big': expected a number"),
        ('\na.py 8x8', "line 2, size '8x8'"),
        ('a.py 8 * 0.5 more', 'expected CONFIG'),
    ],
)
def test_a_malformed_list(text, match):
    with pytest.raises(PruningError, match=match):
        read_list(text)
