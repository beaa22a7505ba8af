# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The five files of docs/extending.md: attach, train, narrow, deploy."""

import copy
import re
from collections import ChainMap
from pathlib import Path

import pytest
import torch
from torch import nn

from mmlapp.core import ChannelPlan, attach, narrow

ROOT = Path(__file__).parents[1]
# Heading of the page: arguments of `attach` that use what is below it.
USES = {
    'A method': dict(method='fading'),
    'A cost': dict(costs=['flops', 'activations']),
    'A branch': dict(bypass=dict(type='halves', norm=True)),
    'A score': dict(score='activity'),
    'A unit': dict(unit='pairs'),
}
TOGETHER = dict(ChainMap(*USES.values()))


def test_the_page_has_the_five(extensions):
    assert list(extensions) == list(USES)


def test_the_config_of_the_page_uses_what_is_there(extensions):
    page = (ROOT / 'docs' / 'extending.md').read_text('utf-8')
    block = re.search(r'```python\n(.*?)```', page, re.S)[1]
    config = {}
    exec(compile(block, 'my_config', 'exec'), config)
    assert (ROOT / 'my' / config['_base_']).resolve().is_file()
    score = config['model']['score']
    assert f"@register_score('{score}')" in extensions['A score']
    (module,) = config['custom_imports']['imports']
    assert f'my/{module}.py' in block


@pytest.mark.parametrize('name', USES)
def test_each_takes_at_most_thirty_lines(extensions, name):
    assert len(extensions[name].splitlines()) <= 30


pytestmark = pytest.mark.usefixtures('extensions')


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.c = nn.Conv2d(16, 12, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.b(self.a(x).relu())
        x = self.c(self.norm(x).relu()).relu()
        return self.fc(x.mean((2, 3)))


def train(model, optimizer, images, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(images).square().mean()
        if hasattr(model, 'pruner'):
            loss = loss + model.pruner.loss()
        loss.backward()
        optimizer.step()
        if hasattr(model, 'pruner'):
            model.pruner.step()


@pytest.mark.parametrize('name', [*USES, 'together'])
def test_attach_train_narrow_deploy(name, tmp_path):
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8)
    arguments = USES.get(name, TOGETHER)
    model = Small()
    dense = copy.deepcopy(model)
    pruner = attach(model, images, **arguments)
    pruner.prepare(model, [lambda: model(images)] * 2)
    target = {'activations' if 'costs' in arguments else 'flops': 0.6}
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    pruner.begin(target, 6)
    train(model, optimizer, images, 6)
    ((cost, share),) = target.items()
    assert share - 0.2 < pruner.ratios()[cost] <= share

    plan = pruner.plan()
    expected = copy.deepcopy(model).eval()(images)
    narrow(model, plan, optimizer)
    torch.testing.assert_close(model.eval()(images), expected)
    train(model.train(), optimizer, images, 2)
    stored = plan.costs.get('parameters')
    if stored is not None:
        found = sum(p.numel() for p in model.parameters())
        assert found == round(stored['pruned'])

    plan.save(tmp_path / 'plan.json')
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    deployed = narrow(dense, ChannelPlan.load(tmp_path / 'plan.json'))
    deployed.load_state_dict(torch.load(tmp_path / 'model.pth'))
    torch.testing.assert_close(deployed.eval()(images), model.eval()(images))


def test_condemned_channels_fade():
    model, images = Small(), torch.randn(4, 3, 8, 8)
    pruner = attach(model, images, method='fading')
    pruner.begin({'flops': 0.5}, 4)
    pruner.step()
    assert set(pruner.gate.tolist()) == {1.0, 0.75}


def test_pairs_go_together():
    model, images = Small(), torch.randn(4, 3, 8, 8)
    pruner = attach(model, images, unit='pairs')
    pruner.begin({'flops': 0.3}, 1)
    pruner.step()
    kept = pruner.plan().slices['b.weight'][0].mask()
    assert torch.equal(kept[::2], kept[1::2])
    assert not kept.all()
