# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every method on a residual, a depthwise and a detecting network."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import EVERY_METHOD
from mmengine.registry import DefaultScope
from three_networks import (
    BATCH,
    NETWORKS,
    STEPS,
    TARGET,
    begin,
    build,
    config_of,
    outputs,
    states_of_both,
    train,
)
from torch import Tensor

from mmlapp.core import Phase, narrow
from mmlapp.engine.deployment.deploy import deploy, load_deployed

every_method = pytest.mark.parametrize('name', EVERY_METHOD)
every_network = pytest.mark.parametrize('network', NETWORKS)
# Kernels of MobileNetV2 have one position where widths must match.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unit='stripes' removes stripes of no"
)


def single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


@pytest.mark.slow
@every_method
@every_network
def test_prunes_to_the_budget_narrows_resumes_and_is_deployed(
    network: str, name: str, tmp_path: Path
) -> None:
    model = build(network, name)
    images = torch.rand(BATCH).double()
    fresh = copy.deepcopy(model)
    begin(model, images)
    list(train(model, range(5)))
    assert model.pruner.phase == Phase.PRUNING
    fresh.load_state_dict(model.state_dict())
    for twin in (model, fresh):
        list(train(twin, range(5, STEPS)))
    for key, value in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key

    pruner = model.pruner
    assert pruner.phase == Phase.FINISHED
    assert TARGET - 0.02 < pruner.ratios()['flops'] <= TARGET
    config, path = config_of(network, name), tmp_path / 'masked.pth'
    # In the precision in which the config builds it; the pruner has its own.
    weights = {
        key: value if key.startswith('pruner.') else single(value)
        for key, value in model.state_dict().items()
    }
    torch.save(dict(state_dict=weights, meta={}), path)
    model.eval()
    with torch.no_grad():
        expected = outputs(model, images)
        narrow(model, pruner.plan())
        torch.testing.assert_close(outputs(model, images), expected)
        with DefaultScope.overwrite_default_scope(config.default_scope):
            found = deploy(config, path, tmp_path / 'slim', 'slim')
            slim: Any = load_deployed(found.config, found.checkpoint)
        assert all(check.passed for check in found.checks)
        torch.testing.assert_close(
            outputs(slim, images.float()),
            [single(out) for out in expected],
            rtol=1e-3,
            atol=1e-4,
        )


@pytest.fixture(scope='module')
def processes(
    tmp_path_factory: pytest.TempPathFactory, network: str
) -> list[dict[str, Any]]:
    """States of the pruners of two processes, by method and step."""
    return states_of_both(tmp_path_factory.mktemp('ranks'), network)


@pytest.mark.slow
@pytest.mark.timeout(700)
@every_method
@pytest.mark.parametrize('network', NETWORKS, scope='module')
def test_two_processes_decide_alike(
    processes: list[dict[str, Any]], name: str, network: str
) -> None:
    """Bit by bit, though they see different images."""
    one, other = (found[name] for found in processes)
    assert len(one) == STEPS
    for state, twin in zip(one, other, strict=True):
        assert state.keys() == twin.keys()
        for key, value in state.items():
            assert torch.equal(twin[key], value), key
    assert not one[-1]['gate'].all()
