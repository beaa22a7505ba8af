# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Two processes over gloo, narrowed in the middle of their run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmlapp.engine.models.plans import KEY

WORKER = Path(__file__).with_name('ddp_worker.py')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scenarios, in one process and in two."""
    path = tmp_path_factory.mktemp('ddp')
    root = WORKER.parents[2]
    environment = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join([str(root), str(root / 'tests')]),
        OMP_NUM_THREADS='1',
    )
    result = subprocess.run(
        [sys.executable, str(WORKER), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return path


def final(folder: Path, scenario: str, processes: int) -> dict[str, Any]:
    path = folder / f'{scenario}-{processes}' / 'epoch_4.pth'
    return torch.load(path, weights_only=False)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    'scenario',
    [
        'averages_and_accumulation',
        'bypasses',
        'narrow_bypasses',
        'distilled',
        'refined',
    ],
)
def test_two_processes_equal_one_with_twice_the_batch(
    folder: Path, scenario: str
) -> None:
    one, two = (final(folder, scenario, n) for n in (1, 2))
    assert KEY in one['state_dict']
    for key in ('state_dict', 'ema_state_dict'):
        expected = one.get(key, {})
        assert list(expected) == list(two.get(key, {}))
        for name, value in expected.items():
            torch.testing.assert_close(
                two[key][name], value, rtol=0, atol=1e-9, msg=name
            )
    states = [run['optimizer']['state'] for run in (one, two)]
    assert [s.keys() for s in states[0].values()] == [
        s.keys() for s in states[1].values()
    ]


def test_both_processes_learn_the_same_labels(folder: Path) -> None:
    one, two = (
        final(folder, 'refined', n)['label_refinement']['state']
        for n in (1, 2)
    )
    assert one['known'].all()
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)


def test_both_processes_learn_from_the_first_ones_dense_model(
    folder: Path,
) -> None:
    digests = [
        (folder / f'distilled-2-rank{rank}.txt').read_text() for rank in (0, 1)
    ]
    assert digests[0] == digests[1]
    assert final(folder, 'distilled', 2)['distillation']['teacher'] in digests


def test_the_layer_without_filters_is_there(folder: Path) -> None:
    weights = final(folder, 'bypasses', 2)['state_dict']
    assert weights['backbone.layer1.0.conv1.weight'].shape[0] == 0
    assert weights['backbone.layer1.0.conv1.bypass.conv.weight'].shape[0] == 16


def test_random_numbers_of_both_processes_are_saved(folder: Path) -> None:
    states = final(folder, 'bypasses', 2)['random_state']['processes']
    assert len(states) == 2


@pytest.mark.parametrize('rank', [0, 1])
def test_processes_that_differ_stop_and_name_the_layer(
    folder: Path, rank: int
) -> None:
    text = (folder / f'spoiled-2-rank{rank}.txt').read_text()
    assert 'rank 1 differs from rank 0 in the ' in text
    assert ' of backbone.layer1.0.conv1: ' in text
