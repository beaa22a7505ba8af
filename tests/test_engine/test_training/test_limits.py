# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What cannot work is refused before training begins."""

from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn, optim

from mmlapp.core import PruningError
from mmlapp.engine.training.limits import check_run, check_saved


def run(**arguments: Any) -> SimpleNamespace:
    return SimpleNamespace(
        cfg=Config(), **{'model': nn.Linear(2, 2), 'hooks': [], **arguments}
    )


def named(name: str, *bases: type) -> Any:
    """An object of a class of that name, which needs no process group."""
    return object.__new__(type(name, bases or (object,), {}))


@pytest.mark.parametrize(
    'kind', ['FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy']
)
@pytest.mark.parametrize('narrow', [True, False])
def test_strategies_that_shard(kind: str, narrow: bool) -> None:
    with pytest.raises(PruningError, match=f'strategy: {kind}. The masks'):
        check_run(run(strategy=named(kind)), narrow)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    'kind', ['MMFullyShardedDataParallel', 'MMSeparateDistributedDataParallel']
)
def test_wrappers_that_split(kind: str) -> None:
    runner = run(model=named(kind, MMDistributedDataParallel))
    with pytest.raises(PruningError, match=f'model_wrapper_cfg: {kind}'):
        check_run(runner, True)  # type: ignore[arg-type]


def test_subclasses_are_known_by_their_base() -> None:
    base = type('FSDPStrategy', (), {})
    with pytest.raises(PruningError, match=r'strategy: Own\. The masks'):
        check_run(run(strategy=named('Own', base)), True)  # type: ignore[arg-type]


def test_optimizers_without_states_of_their_own() -> None:
    parameters = nn.Linear(2, 2).parameters()
    runner: Any = run(optim_wrapper=OptimWrapper(optim.LBFGS(parameters)))
    with pytest.raises(PruningError, match=r'optimizer: LBFGS.*narrow=False'):
        check_run(runner, True)
    check_run(runner, False)


def test_usual_runs_pass() -> None:
    parameters = nn.Linear(2, 2).parameters()
    runner: Any = run(
        model=named('MMDistributedDataParallel', MMDistributedDataParallel),
        optim_wrapper=OptimWrapper(optim.SGD(parameters, 0.1)),
    )
    check_run(runner, True)


def test_averages_must_be_finite_too() -> None:
    averaged = SimpleNamespace(module=nn.Linear(2, 2))
    runner: Any = run(hooks=[SimpleNamespace(ema_model=averaged)])
    check_saved(runner)
    averaged.module.weight.data[0] = float('nan')
    text = r'^the average of weight is not finite'
    with pytest.raises(PruningError, match=text):
        check_saved(runner)
