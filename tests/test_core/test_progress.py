# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.core.progress import Phase, Progress

COSTS = ['flops', 'parameters', 'latency']


@pytest.mark.parametrize(
    'progress',
    [
        Progress(),
        Progress(Phase.PRUNING, 3, 10, {'flops': 0.403}),
        Progress(Phase.FINISHED, 9, 9, {'latency': 0.5, 'flops': 1.0}),
    ],
)
def test_a_state_dict_can_hold_it(progress):
    assert Progress.from_tensor(progress.to_tensor(COSTS), COSTS) == progress


def test_costs_of_another_network():
    state = Progress(target={'flops': 0.5}).to_tensor(COSTS)
    with pytest.raises(ValueError, match='zip'):
        Progress.from_tensor(state, COSTS[:2])
