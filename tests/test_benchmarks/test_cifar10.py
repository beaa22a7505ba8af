# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One recipe for all rows, and what distinguishes them."""

import cifar10
import pytest
import torch
from cifar10 import build, parse_args, run

from mmlapp.core import Phase
from mmlapp.core.methods.lapp import Balance, Gradient


@pytest.fixture
def parse(tmp_path):
    def parse(words):
        options = ['--depth', '8', '--epochs', '1', '--out', str(tmp_path)]
        return parse_args([str(tmp_path), *options, *words.split()])

    return parse


@pytest.fixture
def images(tmp_path):
    """Noise where the images are cached."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (('train', 256), ('test', 10)):
        shape = (count, 3, 32, 32)
        noise = torch.randint(
            256, shape, dtype=torch.uint8, generator=generator
        )
        torch.save((noise, torch.arange(count) % 10), tmp_path / f'{split}.pt')


@pytest.mark.parametrize(
    'branch', ['', '--unit filters --bypass depthwise'], ids=['none', 'branch']
)
def test_uniform_cuts_every_block_alike_before_the_training(parse, branch):
    words = f'uniform --ignore backbone.conv1 --target 0.5 {branch}'
    _, pruner = build(parse(words))
    assert pruner.phase == Phase.FINISHED
    assert 0.48 < pruner.ratios()['flops'] <= 0.5
    sizes = dict(zip(pruner.keep_ratios(), pruner.sizes, strict=True))
    assert len(sizes) == (6 if branch else 3)
    # The same share, but for the rounding and the last channels that fit.
    low, high = (f(pruner.keep_ratios().values()) for f in (min, max))
    assert high - low < 2 / min(sizes.values())


def test_random_draws_other_rates_with_every_seed(parse):
    keep = []
    for seed in (0, 0, 1):
        _, pruner = build(parse(f'random --target 0.5 --seed {seed}'))
        assert pruner.phase == Phase.FINISHED
        assert 0.48 < pruner.ratios()['flops'] <= 0.5
        keep.append(pruner.keep_ratios())
    assert keep[0] == keep[1] != keep[2]


def test_the_options_of_a_rule_reach_it(parse):
    words = '--rate 4 --order 1 --memory 0.2 --task-weight 0.7 --width 0.3'
    _, pruner = build(parse(f'lapp {words}'))
    update = pruner.method.update
    assert isinstance(update, Balance)
    found = update.rate, update.order, update.memory, update.task_weight
    assert found == (4, 1, 0.2, 0.7)
    assert pruner.method.surrogate.width == 0.3
    assert pruner.phase == Phase.DENSE
    words = '--update gradient --rate 3 --cost-weight 2'
    _, pruner = build(parse(f'lapp {words}'))
    update = pruner.method.update
    assert isinstance(update, Gradient)
    assert (update.rate, update.cost_weight) == (3, 2)


@pytest.mark.usefixtures('images')
@pytest.mark.parametrize(
    ('words', 'noted'),
    [
        ('dense', set()),
        ('uniform', {'flops', 'keep'}),
        (
            'lapp --begin 0 --prune-epochs 1',
            {'flops', 'keep', 'signal', 'threshold'},
        ),
        (
            'lapp --begin 0 --prune-epochs 1 --update gradient',
            {'flops', 'keep', 'threshold'},
        ),
    ],
)
def test_a_row_is_trained_to_its_target(parse, words, noted):
    args = parse(words)
    result = run(args)
    (row,) = result['history']
    assert set(row) - {'epoch', 'loss', 'accuracy', 'seconds'} == noted
    if noted:
        assert 0.35 < result['flops'] <= args.target
    else:
        assert result['flops'] == 1
    # Nothing is left to do: read from the checkpoint.
    assert run(args) == result


@pytest.mark.usefixtures('images')
def test_a_broken_run_goes_on_where_it_stopped(parse, monkeypatch):
    words = 'lapp --begin 0.5 --prune-epochs 1 --epochs 2 --name'
    whole = run(parse(f'{words} whole'))['history']
    evaluate, calls = cifar10.evaluate, []

    def break_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(cifar10, 'evaluate', break_second)
    with pytest.raises(KeyboardInterrupt):
        run(parse(f'{words} broken'))
    resumed = run(parse(f'{words} broken'))['history']
    assert len(calls) == 3
    for row in (*whole, *resumed):
        del row['seconds']
    assert resumed == whole
    assert whole[0]['flops'] > whole[1]['flops']
