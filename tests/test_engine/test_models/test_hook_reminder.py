# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import nn

from mmlapp.core import Pruner, PruningWarning
from mmlapp.engine import prunable_model
from mmlapp.engine.models.comparison import Probe, runnable
from mmlapp.engine.models.hook_reminder import expect_hook
from mmlapp.registry import MODELS

EXAMPLE = (torch.rand(2, 3, 8, 8),)


@MODELS.register_module(name='TestReminded', force=True)
class Reminded(BaseModel):
    """Two layers, in every mode alike."""

    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.backbone(inputs)
        return {'loss': out.mean()} if mode == 'loss' else out


@MODELS.register_module(name='TestRemindedOver', force=True)
class Over(Reminded):
    """Goes over its modules, behind which its pruner is hidden."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert not any(isinstance(m, Pruner) for m in self.modules())
        return super().forward(inputs, data_samples, mode)


KINDS = pytest.mark.parametrize('kind', ['TestReminded', 'TestRemindedOver'])


def build(kind='TestReminded'):
    return prunable_model(f'mmlapp.{kind}', input_shape=(3, 8, 8))


@pytest.fixture
def running():
    """As `RuntimeInfoHook` leaves it when a training begins."""
    hub = MessageHub.get_instance('running')
    hub.update_info('max_iters', 9)
    yield
    MessageHub._instance_dict.clear()


@KINDS
def test_a_run_without_the_hook_is_named_once(running, kind):
    model = build(kind)
    with pytest.warns(PruningWarning, match=r'nothing prunes it: .*_base_'):
        model(*EXAMPLE, mode='loss')
    model(*EXAMPLE, mode='loss')


@pytest.mark.parametrize('case', ['hook', 'evaluation', 'begun', 'own loop'])
def test_nothing_is_said_of_other_uses(running, case):
    model = build()
    if case == 'hook':
        expect_hook(model, False)
    if case == 'evaluation':
        model.eval()
    if case == 'begun':
        model.pruner.begin({'flops': 0.5}, steps=2)
    if case == 'own loop':
        MessageHub.get_current_instance().pop_info('max_iters')
    model(*EXAMPLE, mode='loss')


@KINDS
@pytest.mark.parametrize('inside', [False, True])
def test_a_trial_is_no_run(kind, inside, request):
    """Neither by itself, as to deploy a model, nor in a run."""
    if inside:
        request.getfixturevalue('running')
    model = build(kind)
    probe = Probe('a random image', (3, 8, 8), mode='loss')
    assert runnable(model, probe)[1] == ''
    # It has yet to say so.
    if inside:
        with pytest.warns(PruningWarning, match='nothing prunes it'):
            model.train()(*EXAMPLE, mode='loss')
