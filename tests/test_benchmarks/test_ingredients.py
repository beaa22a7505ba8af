# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Rows on one carrier that differ in one ingredient each."""

import json
import math

import ingredients
import pytest
import torch
from ingredients import ROWS, build, epochs_of, parse_args, run_all, table
from torch.utils.flop_counter import FlopCounterMode

from mmlapp.core import merge_bypasses


@pytest.fixture
def args(tmp_path):
    """Noise where the images are cached, and a small network."""
    for split, count in (('train', 256), ('test', 20)):
        noise = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
        torch.save((noise, torch.arange(count) % 10), tmp_path / f'{split}.pt')
    return parse_args(
        [
            *(str(tmp_path), '--depth', '8', '--epochs', '1', '--subset'),
            *('256', '--seeds', '0', '--out', str(tmp_path / 'out')),
        ]
    )


def flops(model):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops()


def test_all_rows_deploy_the_same_cost(args):
    dense = flops(build(ROWS['dense'], args, 0).eval())
    for name, row in ROWS.items():
        model = build(row, args, 0).eval()
        beside = flops(model)
        merge_bypasses(model)
        ratio = flops(model) / dense
        assert (beside > flops(model)) == bool(row.bypass), name
        if not row.dense:
            # The widths are whole numbers, down to six.
            assert 0.35 < ratio <= args.target, name


def test_rows_begin_with_the_same_weights(args):
    plain, branched = (
        build(ROWS[name], args, 3) for name in ('plain', 'asymmetric')
    )
    known = plain.state_dict()
    found = branched.state_dict()
    assert all(torch.equal(found[name], known[name]) for name in known)
    other = build(ROWS['plain'], args, 4).state_dict()
    assert not torch.equal(
        other['backbone.conv1.weight'], known['backbone.conv1.weight']
    )


def test_equal_cost_is_longer(args):
    args.epochs, args.target = 12, 0.4
    assert epochs_of(ROWS['plain'], args) == 12
    assert epochs_of(ROWS['cost'], args) == 30


def test_what_ran_is_not_run_again(args, monkeypatch):
    args.rows = ['plain', 'average', 'repvgg']
    run_all(args)
    found = {path.stem for path in args.out.glob('*.json')}
    assert found == {'plain-s0', 'average-s0', 'repvgg-s0'}
    result = json.loads((args.out / 'repvgg-s0.json').read_text())
    plain = json.loads((args.out / 'plain-s0.json').read_text())
    assert 0 <= result['accuracy'] <= 100
    # Merged: what is left has biases, and nothing else more.
    assert 0 < result['parameters'] - plain['parameters'] < 200
    monkeypatch.setattr(ingredients, 'run', None)
    run_all(args)


def test_differences_are_taken_seed_by_seed():
    def result(row, seed, accuracy):
        keys = dict(epochs=12, seconds=100.0)
        return dict(row=row, seed=seed, accuracy=accuracy, **keys)

    lines = table(
        [
            *(result('plain', s, a) for s, a in enumerate((70, 72, 74))),
            *(result('cost', s, a) for s, a in enumerate((71, 74, 77))),
            result('dense', 0, 80),
        ]
    ).splitlines()
    # Differences 1, 2, 3: their deviation 1 over the root of three.
    assert lines[3].startswith('| plain | 12 | 3 | 72.00 ± 2.00 | +0.00 ±')
    assert '| 74.00 ± 3.00 | +2.00 ± 0.58 |' in lines[4]
    assert '| 80.00 ± nan | +10.00 ± nan |' in lines[2]
    assert math.isclose(1 / 3**0.5, 0.58, abs_tol=0.01)
