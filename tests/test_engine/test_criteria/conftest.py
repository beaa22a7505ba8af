# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A small network in the place of a config's."""

import pytest
import torch

from mmlapp.core import attach
from mmlapp.core.criteria import compare_scores
from mmlapp.engine.criteria.study import Study
from mmlapp.engine.criteria.weights import weights_of


@pytest.fixture
def study():
    """Of two groups, with names that must be escaped."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 6, 3),
        torch.nn.Conv2d(6, 4, 3),
    )  # fmt: skip
    attach(net, torch.rand(1, 3, 9, 9))
    found = compare_scores(
        net, ['l1', 'bn_scale', 'fpgm', 'random'], target={'flops': 0.5}
    )
    found.left_out['taylor'] = 'it wants <batches>'
    return Study(
        config='some/where/<net>.py',
        checkpoint=None,
        batches=0,
        target={'flops': 0.5},
        normalisation='rank',
        scores=found,
        layers=[
            weights_of('0', net[0].weight),
            weights_of('1', torch.ones(8, 6)),
        ],
    )
