# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Training goes on after narrowing as it would have with masks."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mmlapp.core import PruningError, attach, narrow

PHASE, AFTER = 6, 20


class AggMo(torch.optim.Optimizer):
    """Several momenta in a dictionary, and the last gradients in a list."""

    def __init__(self, params, lr):
        super().__init__(params, {'lr': lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    self._step(p, self.state[p], group['lr'])

    def _step(self, p, state, rate):
        if not state:
            state['momenta'] = {b: torch.zeros_like(p) for b in (0.0, 0.9)}
            state['last'] = [torch.zeros_like(p)] * 2
        state['last'] = [p.grad.clone(), state['last'][0]]
        for beta, momentum in state['momenta'].items():
            momentum.mul_(beta).add_(sum(state['last']))
            p.sub_(momentum, alpha=rate / 2)


OPTIMIZERS = {
    'aggmo': lambda p: AggMo(p, 0.02),
    'sgd': lambda p: torch.optim.SGD(
        p, 0.05, momentum=0.9, weight_decay=1e-2, nesterov=True
    ),
    'adam': lambda p: torch.optim.Adam(
        p, 1e-2, weight_decay=1e-2, amsgrad=True
    ),
    'adamw': lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    'rmsprop': lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9),
    'adagrad': lambda p: torch.optim.Adagrad(p, 1e-2),
}
BRANCHES = {
    'none': {},
    **{
        f'{kind}-{unit}': dict(bypass=kind, unit=unit)
        for kind in ('depthwise', 'pointwise', 'grouped')
        for unit in ('filters', 'channels')
    },
}


@pytest.fixture
def trained(net, conv):
    """A residual network at the end of its pruning phase, and its optimizer.

    Both are returned as one tuple, so that one deep copy keeps them together.
    """

    def forward(m, x):
        x = m.n0(m.stem(x)).relu()
        y = m.n1(m.a(x)).relu()
        y = m.n2(m.deep(y)).relu()
        return m.fc((x + m.b(y)).relu().mean((2, 3)))

    def make(optimizer='sgd', bypass='none', steps=PHASE):
        # A bias before a norm has no gradient but round-off, which Adam
        # would blow up.
        model = net(
            forward,
            stem=conv(3, 16, bias=False),
            n0=nn.BatchNorm2d(16),
            a=conv(16, 16, bias=False),
            n1=nn.BatchNorm2d(16),
            deep=conv(16, 16, groups=16, bias=False),
            n2=nn.BatchNorm2d(16),
            b=conv(16, 16),
            fc=nn.Linear(16, 4),
        )
        images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        # A method that takes some of every group, whatever the loss says.
        pruner = attach(model, images, method='uniform', **BRANCHES[bypass])
        groups = [
            {'params': model.stem.parameters(), 'lr': 0.02},
            {
                'params': [
                    p
                    for n, p in model.named_parameters()
                    if not n.startswith('stem')
                ]
            },
        ]
        both = model, OPTIMIZERS[optimizer](groups)
        pruner.begin({'flops': 0.6}, steps)
        train(*both, range(steps))
        assert pruner.phase == 2
        assert not pruner.mask.all()
        return both

    return make


def batch(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.randint(0, 4, (4,), generator=generator)


def train(model, optimizer, steps, average=None):
    pruner = getattr(model, 'pruner', None)
    for step in steps:
        images, labels = batch(step)
        loss = cross_entropy(model(images), labels)
        if pruner is not None:
            loss = loss + pruner.loss()
        loss.backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
        optimizer.zero_grad()
        for old, new in zip(
            [] if average is None else average.parameters(),
            model.parameters(),
            strict=False,
        ):
            old.data.lerp_(new.data, 0.1)


def assert_close(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        value = value.double()
        error = (found[name].double() - value).abs().max()
        assert error <= 1e-11 * value.abs().max().clamp_min(1), name


@pytest.mark.parametrize(
    ('optimizer', 'bypass'),
    [
        *((optimizer, 'none') for optimizer in OPTIMIZERS),
        *(('sgd', bypass) for bypass in BRANCHES if bypass != 'none'),
        *(('adam', bypass) for bypass in BRANCHES if bypass != 'none'),
    ],
)
def test_twenty_more_steps_equal_those_with_masks(trained, optimizer, bypass):
    masked = trained(optimizer, bypass)
    slim = copy.deepcopy(masked)
    plan = masked[0].pruner.plan()
    averages = [copy.deepcopy(m) for m, _ in (masked, slim)]
    narrow(slim[0], plan, slim[1])
    narrow(averages[1], plan)
    after = range(PHASE, PHASE + AFTER)
    for run, average in zip((masked, slim), averages, strict=True):
        train(*run, after, average)
    images, _ = batch(1000)
    for a, b in ((masked[0], slim[0]), averages):
        torch.testing.assert_close(b(images), a(images), rtol=1e-9, atol=1e-12)
        assert_close(b.state_dict(), narrow(a, plan).state_dict())


def test_every_tensor_of_the_state_has_its_parameters_shape(trained):
    model, optimizer = trained('adam', 'depthwise-channels')
    rates = [g['lr'] for g in optimizer.param_groups]
    groups = list(map(id, optimizer.param_groups))
    narrow(model, model.pruner.plan(), optimizer)
    listed = [p for g in optimizer.param_groups for p in g['params']]
    assert {id(p) for p in listed} == {id(p) for p in model.parameters()}
    assert [g['lr'] for g in optimizer.param_groups] == rates
    assert list(map(id, optimizer.param_groups)) == groups
    assert set(optimizer.state) == set(listed)
    for parameter, state in optimizer.state.items():
        assert state['exp_avg'].shape == parameter.shape
        assert state['exp_avg_sq'].shape == parameter.shape
        assert state['step'] == PHASE


def test_gradients_follow(trained):
    model, optimizer = trained()
    images, labels = batch(7)
    cross_entropy(model(images), labels).backward()
    plan = model.pruner.plan()
    kept = torch.tensor(plan.slices['a.weight'][0].index)
    inputs = torch.tensor(plan.slices['a.weight'][1].index)
    wide = model.a._parameters['weight'].grad.clone()
    narrow(model, plan, optimizer)
    assert torch.equal(model.a.weight.grad, wide[kept][:, inputs])
    assert model.a.weight.grad.abs().sum() > 0
    fresh = {n: p.grad.clone() for n, p in model.named_parameters()}
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    # up to the running statistics, which the loss does not read
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, fresh[name], msg=name)


@pytest.mark.parametrize(
    'row', [torch.zeros(16), [None, torch.zeros(16)], {0: torch.zeros(16)}]
)
def test_a_state_of_another_shape_is_refused_and_nothing_changes(trained, row):
    model, optimizer = trained()
    weight = model.a._parameters['weight']
    optimizer.state[weight]['row'] = row
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(PruningError, match=r"state 'row' of SGD has shape"):
        narrow(model, model.pruner.plan(), optimizer)
    assert optimizer.state[weight]['row'] is row
    assert_close(model.state_dict(), before)


def test_names_of_parameters_follow(trained):
    model, _ = trained(bypass='grouped-channels')
    optimizer = torch.optim.SGD(model.named_parameters(), 0.1)
    if 'param_names' not in optimizer.param_groups[0]:
        pytest.skip('this torch does not note names')
    narrow(model, model.pruner.plan(), optimizer)
    (group,) = optimizer.param_groups
    assert len(group['param_names']) == len(group['params'])
    shapes = dict(zip(group['param_names'], group['params'], strict=True))
    assert shapes['a.weight'] is model.a.weight


def test_a_layer_that_lost_all_filters_asks_for_no_gradient(trained):
    model, optimizer = trained(bypass='depthwise-filters')
    pruner = model.pruner
    start = sum(
        g.size
        for g in pruner.groups[: [g.name for g in pruner.groups].index('a')]
    )
    pruner.gate[start : start + 16] = 0
    narrow(model, pruner.plan(), optimizer)
    assert model.a.weight.shape[0] == 0
    images, labels = batch(3)
    cross_entropy(model(images), labels).backward()
    without = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and p.grad is None
    ]
    assert without == []
    optimizer.step()
