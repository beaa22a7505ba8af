# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whatever a config builds of ours refuses what it does not take."""

import inspect
import pickle

import pytest
import torch
from mmengine.registry import HOOKS as ROOT
from torch import nn

from mmlapp import registry
from mmlapp.core import PruningError
from mmlapp.core.arguments import taken_by
from mmlapp.engine import (
    AmpPruningOptimWrapper,
    PruningHook,
    PruningOptimWrapper,
    SafeCheckpointHook,
)

REGISTRIES = [
    each
    for each in vars(registry).values()
    if isinstance(each, registry.CheckedRegistry)
]
for each in REGISTRIES:
    each.import_from_location()
ENTRIES = {
    f'{each.name} {name}': entry
    for each in REGISTRIES
    for name, entry in each.module_dict.items()
    if entry.__module__.startswith('mmlapp.')
}
# The others ask those to whom they pass arguments on.
KNOWING = [n for n, entry in ENTRIES.items() if taken_by(entry) is not None]


def test_all_registries_check():
    found = [
        each
        for each in vars(registry).values()
        if isinstance(each, registry.Registry)
        and getattr(each, 'scope', '') == 'mmlapp'
    ]
    assert found == REGISTRIES
    assert len(KNOWING) >= 9


@pytest.mark.parametrize('name', KNOWING)
def test_no_entry_takes_what_it_does_not_know(name):
    with pytest.raises(PruningError, match=r'not_ours=7: mmlapp.* no such'):
        ENTRIES[name](not_ours=7)


@pytest.mark.parametrize(
    ('kind', 'settings', 'match'),
    [
        (PruningHook, dict(prune_epoch=2), 'prune_epoch=2: mmlapp.Pruning.*'),
        (
            PruningHook,
            dict(targets={}),
            r'targets={}: .*did you mean target\?',
        ),
        (PruningOptimWrapper, dict(clip_gard=2), r'did you mean clip_grad\?'),
        (AmpPruningOptimWrapper, dict(loss_scal=2), r'mean loss_scale\?'),
        (AmpPruningOptimWrapper, dict(clip_gard=2), r'mean clip_grad\?'),
    ],
)
def test_what_was_meant_is_said(kind, settings, match):
    with pytest.raises(PruningError, match=match):
        kind(**settings)


def test_a_config_that_misspells_an_argument():
    match = r'prune_epoch=2: mmlapp\.PruningHook .*did you mean prune_epochs\?'
    with pytest.raises(PruningError, match=match):
        ROOT.build(dict(type='mmlapp.PruningHook', prune_epoch=2))


def test_what_is_missing_is_named():
    with pytest.raises(PruningError, match=r"PrunableModel: .*'architecture'"):
        registry.MODELS.build(dict(type='PrunableModel', scope='*'))


def test_entries_are_as_they_were_written():
    """With their signature and their base's arguments; they are pickled."""
    assert 'prune_epochs' in inspect.signature(PruningHook).parameters
    hook = pickle.loads(pickle.dumps(PruningHook(prune_epochs=3)))
    assert hook.length.prune_epochs == 3
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.1)
    wrapper = PruningOptimWrapper(optimizer, accumulative_counts=2)
    assert wrapper._accumulative_counts == 2
    assert SafeCheckpointHook(interval=3, published_keys=['a']).interval == 3
