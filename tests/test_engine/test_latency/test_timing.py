# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.engine.latency.timing import (
    Timing,
    clock_of,
    interleaved,
    summary,
    threads_of_torch,
)


def test_each_function_gets_its_own_times(clock):
    runs = [clock.takes(1.0), clock.takes(2.0)]
    found = interleaved(runs, rounds=4, clock=clock)
    assert found == [Timing(1.0, 1.0), Timing(2.0, 2.0)]


def test_median_and_p90():
    assert summary([float(k) for k in range(1, 11)]) == Timing(5.5, 9.0)
    assert summary([float(k) for k in range(1, 101)]) == Timing(50.5, 90.0)
    assert summary([7.0]) == Timing(7.0, 7.0)


def test_warm_up_is_not_counted(clock):
    slow_at_first = clock.takes([9.0, 9.0, 1.0, 1.0])
    found = interleaved([slow_at_first], rounds=2, warm_up=2, clock=clock)
    assert found == [Timing(1.0, 1.0)]


def test_functions_take_turns_and_change_neighbours():
    seen = []
    runs = [lambda i=i: seen.append(i) for i in range(3)]
    interleaved(runs, rounds=6, warm_up=0)
    turns = [tuple(seen[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(turn) == [0, 1, 2] for turn in turns)
    # Every order of three comes once.
    assert len(set(turns)) == 6


def test_noise_is_seen():
    assert not Timing(1.0, 1.2).noisy
    assert Timing(1.0, 1.21).noisy


@pytest.mark.parametrize('rounds', [0, -1, 1.5, True])
def test_bad_rounds(rounds):
    with pytest.raises(PruningError, match='rounds='):
        interleaved([], rounds=rounds)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with threads_of_torch(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(PruningError, match='threads=0'), threads_of_torch(0):
        pass


def test_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: waited.append(1))
    clock_of('cpu')()
    assert not waited
    clock_of('cuda')()
    assert waited
