# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The measure of the zoo, on a network that takes a second."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from mmengine.utils import get_installed_path
from torch import nn

from mmlapp.core import PruningError, attach
from mmlapp.engine.zoo import (
    NETWORKS,
    Entry,
    markdown,
    read_list,
    run_all,
    summary,
)
from mmlapp.engine.zoo.foreign import LIBRARIES
from mmlapp.engine.zoo.measure import (
    Measurement,
    measure,
    random_masks,
)
from mmlapp.engine.zoo.randomise import randomise
from mmlapp.engine.zoo.run import run_one
from mmlapp.engine.zoo.share import prunable_share
from mmlapp.engine.zoo.table import agrees

CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmlapp'])
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmlapp.CIFARResNet', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
"""


@pytest.fixture
def entry(tmp_path):
    path = tmp_path / 'small.py'
    path.write_text(CONFIG)
    return Entry(str(path), (3, 32, 32))


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


def test_every_step(entry):
    """Every layer of a ResNet costs less afterwards; counted two ways."""
    found = measure(entry)
    assert found.failed is None
    assert found.share == 1.0
    assert found.frozen['output of the network'] == 10
    assert list(found.errors) == [
        'half, random 3x32x32',
        'random, random 3x32x32',
    ]
    assert max(found.errors.values()) < 1e-5
    assert found.effect > 0.01
    assert 0 < found.ratio < 1
    assert found.counted == pytest.approx(found.ratio)
    assert found.gradient


def test_a_wrong_narrowing_is_seen(entry, monkeypatch):
    """The measure can fail: one number of a narrowed filter is changed."""
    from mmlapp.engine.zoo import measure as module

    original = module.shrink

    def broken(model, plan):
        original(model, plan)
        with torch.no_grad():
            next(model.backbone.parameters()).view(-1)[0] += 1.0

    monkeypatch.setattr(module, 'shrink', broken)
    found = measure(entry).to_dict()
    assert not agrees(found)


def test_a_network_that_fails_says_where(entry):
    Path(entry.config).write_text(CONFIG.replace('depth=8', 'depth=9'))
    assert measure(entry).failed.startswith('build: ')


def test_a_network_of_another_library():
    found = measure(Entry('torchvision::shufflenet_v2_x0_5', (3, 64, 64)))
    assert (found.name, found.failed) == (
        'torchvision::shufflenet_v2_x0_5',
        None,
    )
    assert found.share > 0.95
    assert found.counted == pytest.approx(found.ratio)


def test_a_library_that_is_not_installed(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setitem(LIBRARIES, 'timm', missing)
    failed = measure(Entry('timm::resnet18.a1_in1k')).failed
    assert failed == (
        'build: PruningError: timm::resnet18.a1_in1k: timm is not installed; '
        'pip install it'
    )


def test_a_process_of_its_own_has_a_limit(entry):
    assert run_one(entry, 0.0)['failed'] == 'no result within 0 s'


def test_results_are_kept_and_not_measured_again(tmp_path, entry):
    out = tmp_path / 'zoo.json'
    known = Measurement('known', flops=42).to_dict()
    failed = Measurement('small', failed='the last time').to_dict()
    out.write_text(json.dumps([known, failed]))
    told = []
    rows = run_all(
        [Entry('known.py'), entry],
        out,
        progress=lambda name, number: told.append((name, number)),
    )
    assert told == [('known', 0), ('small', 1)]
    assert rows[0] == known
    assert rows[1]['failed'] is None
    assert json.loads(out.read_text()) == rows


def test_the_table():
    rows = [
        Measurement(
            'good',
            0.95,
            1_000_000,
            1.0,
            3,
            24,
            effect=0.7,
            errors={'half': 1e-7},
        ).to_dict(),
        Measurement(
            'bad',
            0.95,
            share=0.5,
            frozen={'a': 3, 'b': 2, 'c': 1, 'd': 1},
            effect=0.7,
            errors={'half': 0.1},
            failed='learn: oh',
        ).to_dict(),
        # Nothing was compared: the outputs do not depend on the masks.
        Measurement(
            'blind', share=0.9, effect=0.0, errors={'half': 0.0}
        ).to_dict(),
    ]
    assert summary(rows) == (
        '3 networks: 2 run all steps, 1 agree to 0.0001, 2 reach their bar.'
    )
    text = markdown(rows)
    assert '| good | 1M | 100.0% | 3 | 24 | 1e-07 |' in text
    assert '| bad |  | **50.0%** |' in text
    assert '- bad: a (3); b (2); c (1); 1 other reasons (1)' in text
    assert '- bad: learn: oh' in text
    assert text.startswith('# The model zoo, measured\n')
    assert markdown(rows, '# Mine\n').startswith('# Mine\n\nAll weights')


def test_nothing_keeps_its_initial_value():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Linear(8, 8)
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for name, value in randomise(model).state_dict().items():
        if not name.endswith('num_batches_tracked'):
            assert (value != before[name]).all(), name


def test_random_masks_are_within_their_bounds():
    model = nn.Sequential(*(nn.Conv2d(40, 40, 1) for _ in range(6)))
    lapp = attach(model, torch.rand(1, 40, 2, 2))
    random_masks(lapp, (0.2, 0.9))
    shares = lapp.keep_ratios().values()
    assert all(0.2 <= share <= 0.9 for share in shares)
    assert len(set(shares)) > 1


def test_the_share_counts_what_is_left_at_least():
    """3 of 4 inputs of the second layer are frozen, as is its output."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 2, 1)
            self.c = nn.Conv2d(8, 5, 1)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            return self.c(torch.cat([a, b], dim=1)), a

    from mmlapp.core import analyse

    model = Part()
    x = torch.rand(1, 3, 1, 1)
    found = analyse(model, lambda: model(x))
    # a: 18 frozen; b: 6 prunable; c: 30 of 40 frozen.
    assert prunable_share(found, '*') == pytest.approx(1 - 48 / 64)
