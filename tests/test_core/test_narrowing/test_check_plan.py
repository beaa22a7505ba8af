# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A plan that does not fit is refused before anything changes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mmlapp.core import (
    ChannelPlan,
    PruningError,
    attach,
    load_slim,
    narrow,
    save_slim,
)
from mmlapp.core.plan.entries import BranchPlan
from mmlapp.core.plan.kept import Kept


def picture(model):
    """All that shrinking may change, for comparisons."""
    return {
        'classes': [type(m) for m in model.modules()],
        'names': [n for n, _ in model.named_modules()],
        'attributes': [
            {k: v for k, v in vars(m).items() if isinstance(v, int)}
            for m in model.modules()
        ],
        'tensors': {
            k: id(v) for k, v in model.state_dict(keep_vars=True).items()
        },
        'values': {k: v.clone() for k, v in model.state_dict().items()},
        'hooks': len(model._forward_pre_hooks),
    }


def assert_same(a, b):
    values = [x.pop('values') for x in (a, b)]
    assert a == b
    for key, value in values[0].items():
        assert torch.equal(value, values[1][key])


def kept(size, *index):
    return Kept(size, index)


def changed(plan, **entries):
    return replace(plan, **entries)


GROUPED = {'type': 'grouped'}
MISFITS = {
    'another width': (
        lambda p: changed(p, slices={'a.weight': {0: kept(16, 0)}}),
        r'a\.weight has shape \(8, 3, 3, 3\), the plan expects 16',
    ),
    'another layer': (
        lambda p: changed(p, slices={**p.slices, 'z.weight': {0: kept(8)}}),
        r'it has no z\.weight',
    ),
    'another dimension': (
        lambda p: changed(p, slices={'a.bias': {1: kept(8, 0)}}),
        r'a\.bias has shape \(8,\)',
    ),
    'a layer without tensors': (
        lambda p: changed(p, slices={'a.scale': {0: kept(8, 0)}}),
        r'it has no a\.scale',
    ),
    'another attribute': (
        lambda p: changed(p, attributes={'z.groups': kept(8, 0)}),
        r'it has no z\.groups',
    ),
    'an attribute of another number': (
        lambda p: changed(p, attributes={'a.groups': kept(8, 0)}),
        r'a\.groups is 1, the plan expects 8',
    ),
    'an attribute that is true': (
        lambda p: changed(p, attributes={'a.training': kept(1)}),
        r'a\.training is (True|False), the plan expects 1',
    ),
    'a tensor of another shape': (
        lambda p: changed(p, shapes={**p.shapes, 'c.weight': (5, 8, 1, 1)}),
        r'c\.weight has shape \(5, 8, 3, 3\), the plan expects \(5, 8, 1, 1\)',
    ),
    'a tensor of another rank': (
        lambda p: changed(p, shapes={**p.shapes, 'c.weight': (5,)}),
        r'c\.weight has shape .* expects \(5,\)',
    ),
    'a tensor too many': (
        lambda p: changed(p, shapes={**p.shapes, 'z.weight': (1,)}),
        r'it has no z\.weight',
    ),
    'a tensor that is not known': (
        lambda p: changed(
            p, shapes={k: v for k, v in p.shapes.items() if k != 'c.bias'}
        ),
        r'the plan does not know c\.bias',
    ),
    'a bypass at no layer': (
        lambda p: changed(
            p,
            branches={'z': BranchPlan(GROUPED, kept(8, 0), kept(8, 0))},
        ),
        'it has no z',
    ),
    'a bypass at a norm': (
        lambda p: changed(
            p,
            branches={'norm': BranchPlan(GROUPED, kept(8, 0), kept(8, 0))},
        ),
        'BatchNorm2d takes no bypass',
    ),
    'a bypass of another width': (
        lambda p: changed(
            p,
            branches={'b': BranchPlan(GROUPED, kept(4, 0), kept(8, 0))},
        ),
        'b joins 8 to 8 channels, the plan expects 4 and 8',
    ),
    'an unknown bypass': (
        lambda p: changed(
            p,
            branches={
                'b': BranchPlan({'type': 'wide'}, kept(8, 0), kept(8, 0))
            },
        ),
        "bypass='wide' is unknown",
    ),
    'unknown settings of a bypass': (
        lambda p: changed(
            p,
            branches={
                'b': BranchPlan(
                    {**GROUPED, 'width': 2}, kept(8, 0), kept(8, 0)
                )
            },
        ),
        'it takes norm',
    ),
    'nothing of a layer': (
        lambda p: changed(p, slices={'a.weight': {0: kept(8)}}),
        r"of a\.weight it keeps nothing, .* unit='channels' does not run so",
    ),
    'an unknown unit': (
        lambda p: changed(p, unit='blocks'),
        "unit='blocks' is unknown",
    ),
    'details of another unit': (
        lambda p: changed(p, details={'b': {'outputs': kept(8, 0)}}),
        'b: Channels has no details',
    ),
    'filters of another width': (
        lambda p: changed(
            p, unit='filters', details={'b': {'outputs': kept(9, 0)}}
        ),
        'b: it has 8 outputs',
    ),
}


@pytest.mark.parametrize(
    ('have', 'want', 'match'),
    [
        ('depthwise', 'pointwise', 'b has another bypass than pointwise'),
        ('depthwise', None, 'b has a bypass, the plan none'),
    ],
)
def test_a_plan_of_another_bypass_changes_nothing(planned, have, want, match):
    model, _, _ = planned(have)
    _, plan, _ = planned(want)
    before = picture(model)
    with pytest.raises(PruningError, match=match):
        narrow(model, plan)
    assert_same(before, picture(model))


@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('name', MISFITS)
def test_a_plan_that_does_not_fit_changes_nothing(planned, make, name, masked):
    change, match = MISFITS[name]
    model, plan, _ = planned()
    if not masked:
        model = make()
    before = picture(model)
    with pytest.raises(PruningError, match=match):
        narrow(model, change(plan))
    assert_same(before, picture(model))


def test_narrowing_twice_is_refused(planned):
    model, plan, _ = planned()
    narrow(model, plan)
    before = picture(model)
    with pytest.raises(PruningError, match='does not fit'):
        narrow(model, plan)
    assert_same(before, picture(model))


def chain(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers]).eval()


def conv(*arguments, **settings):
    return lambda: nn.Conv2d(*arguments, **settings)


# Each differs from the first one in one thing.
NETWORKS = {
    'first': chain(conv(3, 8, 3), nn.ReLU, conv(8, 8, 3), conv(8, 6, 1)),
    'kernel': chain(conv(3, 8, 3), nn.ReLU, conv(8, 8, 1), conv(8, 6, 1)),
    'width': chain(conv(3, 8, 3), nn.ReLU, conv(8, 9, 3), conv(9, 6, 1)),
    'inputs': chain(conv(4, 8, 3), nn.ReLU, conv(8, 8, 3), conv(8, 6, 1)),
    'bias': chain(
        conv(3, 8, 3), nn.ReLU, conv(8, 8, 3, bias=False), conv(8, 6, 1)
    ),
    'deeper': chain(
        conv(3, 8, 3), nn.ReLU, conv(8, 8, 3), conv(8, 6, 1), conv(6, 6, 1)
    ),
    'norm': chain(
        conv(3, 8, 3), lambda: nn.BatchNorm2d(8), conv(8, 8, 3), conv(8, 6, 1)
    ),
    'groups': chain(
        conv(3, 8, 3), nn.ReLU, conv(8, 8, 3, groups=2), conv(8, 6, 1)
    ),
}


def test_a_plan_fits_its_own_network_alone():
    plans = {}
    for name, make in NETWORKS.items():
        model = make()
        pruner = attach(model, torch.rand(1, model[0].in_channels, 8, 8))
        mask = torch.ones(len(pruner.gate), dtype=torch.bool)
        mask[1] = False  # of the first layer only
        pruner.set_mask(mask)
        plans[name] = ChannelPlan.from_json(pruner.plan().to_json())
    fits = {
        (name, other)
        for name, plan in plans.items()
        for other, make in NETWORKS.items()
        if fitting(make(), plan)
    }
    assert fits == {(name, name) for name in NETWORKS}


class Gathered(nn.Module):
    """Reads one layer, in another way for each kind of it."""

    def __init__(self, layer, width=8):
        super().__init__()
        self.layer, self.width = layer, width
        self.stem, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        if isinstance(self.layer, nn.Embedding):
            x = torch.einsum('nchw,ck->nkhw', x, self.layer.weight)
        elif isinstance(self.layer, (nn.Linear, nn.LayerNorm)):
            x = self.layer(x.movedim(1, -1)).movedim(-1, 1)
        elif getattr(self.layer, 'in_channels', 8) == 4:
            x = self.layer(x[:, :4])
        else:
            x = self.layer(x)
        return self.out(x)


# Tensors of the same names and shapes, which mean other things.
LOOKALIKES = {
    'transposed': (
        lambda: nn.Conv2d(8, 8, 3),
        lambda: nn.ConvTranspose2d(8, 8, 3),
        r'of another kind: transposed conv.*, .* expects convolution\.',
    ),
    'convolution': (
        lambda: nn.ConvTranspose2d(8, 8, 3, bias=False),
        lambda: nn.Conv2d(8, 8, 3, bias=False),
        r'kind: convolution, the plan expects transposed convolution\.',
    ),
    'groups': (
        lambda: nn.Conv2d(8, 8, 3, groups=2),
        lambda: nn.Conv2d(4, 8, 3),
        'kind: convolution, the plan expects convolution in 2 groups',
    ),
    'embedding': (
        lambda: nn.Linear(8, 8, bias=False),
        lambda: nn.Embedding(8, 8),
        'kind: embedding, the plan expects linear layer',
    ),
    'groups of a norm': (
        lambda: nn.GroupNorm(4, 8),
        lambda: nn.GroupNorm(2, 8),
        'group norm in 2 groups, the plan expects group norm in 4 groups',
    ),
    'norm': (
        lambda: nn.LayerNorm(8),
        lambda: nn.GroupNorm(1, 8),
        'kind: group norm, the plan expects layer norm',
    ),
}


def gathered_plan(model):
    pruner = attach(model, torch.rand(1, 3, 8, 8))
    pruner.begin({'parameters': 0.8}, 1)
    pruner.step()
    return ChannelPlan.from_json(pruner.plan().to_json())


@pytest.mark.parametrize('name', LOOKALIKES)
def test_layers_whose_dimensions_mean_something_else(name):
    make, other, match = LOOKALIKES[name]
    plan = gathered_plan(Gathered(make()))
    model = Gathered(other())
    before = picture(model)
    with pytest.raises(PruningError, match=match):
        narrow(model, plan)
    assert_same(before, picture(model))
    narrow(Gathered(make()), plan)


class Own(nn.Conv2d):
    """A convolution of somebody else."""


@pytest.mark.parametrize(
    ('have', 'want'),
    [
        (lambda: nn.SyncBatchNorm(8), lambda: nn.BatchNorm2d(8)),
        (lambda: nn.BatchNorm2d(8), lambda: nn.SyncBatchNorm(8)),
        (lambda: Own(8, 8, 3), lambda: nn.Conv2d(8, 8, 3, 2, 4)),
        (
            lambda: nn.utils.parametrizations.spectral_norm(
                nn.Conv2d(8, 8, 3)
            ),
            None,
        ),
    ],
)
def test_layers_that_mean_the_same(have, want):
    plan = gathered_plan(Gathered(have()).eval())
    narrow(Gathered((want or have)()), plan)


def fitting(model, plan):
    before = picture(model)
    try:
        narrow(model, plan)
    except PruningError:
        assert_same(before, picture(model))
        return False
    return True


def test_another_number_of_classes_fits(planned, make, image, conv):
    """A head may be another one: nothing is removed at its outputs."""
    _, plan, _ = planned()
    model = make()
    model.c = conv(8, 11).double()
    kept_inputs = plan.slices['c.weight'][1].index
    expected = model.c.weight[:, list(kept_inputs)]
    narrow(model, plan)
    assert torch.equal(model.c.weight, expected)
    assert model(image).shape == (2, 11, 8, 8)


def test_other_buffers_that_no_state_dict_has_fit(planned, make, image):
    """Models keep there what depends on their inputs."""
    _, plan, _ = planned()
    model = make()
    model.register_buffer('grid', torch.zeros(7), persistent=False)
    narrow(model, plan)
    assert len(model(image)) == 2


@pytest.mark.parametrize('unit', ['channels', 'filters'])
def test_a_layer_with_two_names_and_a_branch(net, conv, image, unit):
    model = net(
        lambda m, x: m.b(m.a(x)),
        a=(a := conv(3, 12)),
        b=conv(12, 2),
        more=nn.ModuleList([a]),
    ).eval()
    pruner = attach(model, image, unit=unit, bypass='depthwise')
    pruner.begin({'flops': 0.6}, 1)
    pruner.step()
    expected = model(image)
    narrow(model, pruner.plan())
    assert torch.allclose(model(image), expected)
    assert model.more[0] is model.a


@pytest.mark.parametrize('plan', [None, 'a.plan.json', {'version': 3}])
def test_what_is_no_plan(make, plan):
    with pytest.raises(PruningError, match=r'expected a ChannelPlan, .*load'):
        narrow(make(), plan)


def test_what_is_added_after_attach_stays(planned, make, image):
    """Such as a queue that a hook keeps in the model."""
    model, plan, masked = planned()
    model.register_buffer('queue', torch.zeros(3))
    model.extra = nn.Linear(2, 2)
    narrow(model, plan)
    assert torch.allclose(model(image), masked)
    assert len(model.queue) == 3
    other = make()
    other.register_buffer('queue', torch.zeros(3))
    with pytest.raises(PruningError, match='the plan does not know queue'):
        narrow(other, plan)


def test_an_average_takes_the_masks_of_the_original(planned, image):
    """Its own lag behind: they were copied, or averaged, a while ago."""
    model, plan, masked = planned()
    average = copy.deepcopy(model)
    gate = torch.ones_like(average.pruner.gate, dtype=torch.bool)
    gate[0] = False
    average.pruner.set_mask(gate)
    with pytest.raises(PruningError) as error:
        narrow(average, plan)
    remedy = str(error.value).rpartition('with ')[2]
    exec(remedy, {'copy': average, 'original': model})
    assert torch.allclose(narrow(average, plan)(image), masked)


@pytest.mark.parametrize(
    'wrap', [nn.DataParallel, AveragedModel], ids=lambda kind: kind.__name__
)
def test_the_network_inside_of_a_wrapper_is_named(planned, wrap):
    model, plan, _ = planned()
    with pytest.raises(
        PruningError,
        match=r"its part 'module': .* narrow\(model\.module, plan",
    ):
        narrow(wrap(model), plan)
    narrow(wrap(model).module, plan)


def test_the_plan_of_another_run_does_not_fit_masks(planned, make, image):
    """What it removes may be what the masks keep."""
    model, plan, masked = planned()
    _, other, _ = planned()
    assert other.slices != plan.slices
    before = picture(model)
    with pytest.raises(PruningError, match=r'masks keep .* in \w+, the plan'):
        narrow(model, other)
    assert_same(before, picture(model))
    assert torch.allclose(narrow(model, plan)(image), masked)
    # Where nothing is masked yet, plans of other runs are as good.
    dense = make()
    attach(dense, image)
    narrow(dense, other)


def test_the_plan_of_a_whole_network_for_a_part_of_it():
    backbone = chain(conv(3, 8, 1), conv(8, 6, 1))
    body = backbone()
    model = nn.ModuleDict({'backbone': body, 'head': nn.Conv2d(6, 4, 1)})

    def forward():
        return model['head'](body(torch.rand(1, 3, 9, 9)))

    pruner = attach(model, forward, method='uniform')
    pruner.begin({'flops': 0.6}, 1)
    pruner.step()
    plan = pruner.plan()
    part = backbone()
    with pytest.raises(
        PruningError, match=r"narrow to plan\.below\('backbone'\)"
    ):
        narrow(part, plan)
    assert narrow(part, plan.below('backbone')) is part
    other = chain(conv(3, 8, 1), conv(8, 6, 1), conv(6, 2, 1))()
    with pytest.raises(PruningError, match=r'it has no backbone\.0\.weight$'):
        narrow(other, plan)


def test_the_plan_of_a_network_for_one_without_its_head():
    """As get_model(config, pretrained=..., head=None) builds it."""

    class Classifier(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.backbone = chain(conv(3, 8, 1), conv(8, 6, 1))()
            self.head = nn.Conv2d(6, 4, 1) if head else None

        def forward(self, x):
            x = self.backbone(x)
            return x if self.head is None else self.head(x)

    model, image = Classifier(head=True), torch.rand(1, 3, 9, 9)
    pruner = attach(model, image, method='uniform')
    pruner.begin({'flops': 0.6}, 1)
    pruner.step()
    plan = pruner.plan()
    told = r"'head' is gone: .* take that off it then \(model\.head = None\)"
    with pytest.raises(PruningError, match=told):
        narrow(Classifier(head=False), plan)
    # What it says can be done.
    whole = narrow(Classifier(head=True), plan)
    expected = whole.backbone(image)
    whole.head = None
    assert torch.equal(whole(image), expected)
    assert expected.shape[1] == plan.slices['head.weight'][1].count
    # Something else is missing, or there, too.
    other = Classifier(head=False)
    del other.backbone[1]
    with pytest.raises(PruningError, match=r'it has no backbone\.1\.weight$'):
        narrow(other, plan)
    other = Classifier(head=False)
    other.neck = nn.Conv2d(6, 4, 1)
    with pytest.raises(PruningError, match=r'it has no head\.weight$'):
        narrow(other, plan)


@pytest.mark.parametrize(
    ('layer', 'match'),
    [
        (nn.Conv2d(8, 6, 1), '2 cannot get a bias: Conv2d'),
        (nn.ReLU(), '2 cannot get a bias: ReLU'),
    ],
)
def test_a_bias_that_a_layer_cannot_get(layer, match):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), layer)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    plan = ChannelPlan({}, {}, shapes=shapes, biases=['2'])
    with pytest.raises(PruningError, match=match):
        narrow(model, plan)


class LaidOut(nn.Module):
    """Fills a buffer in its first forward."""

    def __init__(self, persistent, registered=True):
        super().__init__()
        self.persistent = persistent
        if registered:
            self.register_buffer('m', None, persistent=persistent)

    def forward(self, x):
        if getattr(self, 'm', None) is None:
            filled = x.new_full((x.shape[1], 1, 1), 0.5)
            self.register_buffer('m', filled, persistent=self.persistent)
        return x * self.m


def laid_out(persistent, registered=True):
    layer = LaidOut(persistent, registered)
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Conv2d(8, 5, 3))


def plan_of_one_that_ran(model, x):
    model(x)
    pruner = attach(model, x)
    pruner.set_mask(torch.arange(8) % 2 > 0)
    return pruner.plan()


@pytest.mark.parametrize('registered', [True, False])
def test_a_buffer_that_is_filled_later_needs_no_slice(tmp_path, registered):
    x = torch.rand(1, 3, 8, 8)
    model = laid_out(False, registered)
    plan = plan_of_one_that_ran(model, x)
    assert '1.m' in plan.slices
    narrow(model, plan)
    save_slim(model, tmp_path / 'slim.pth', plan)
    fresh = load_slim(laid_out(False, registered), tmp_path / 'slim.pth')
    # Saved before it has run as well.
    save_slim(fresh, tmp_path / 'again.pth', plan)
    torch.testing.assert_close(fresh(x), model(x))
    assert fresh[1].m.shape == (4, 1, 1)
    optimizer = torch.optim.SGD((other := laid_out(False)).parameters(), 0.1)
    assert narrow(other, plan, optimizer)(x).shape == (1, 5, 4, 4)


def test_a_buffer_of_state_dicts_must_be_there():
    x = torch.rand(1, 3, 8, 8)
    plan = plan_of_one_that_ran(laid_out(True), x)
    with pytest.raises(PruningError, match=r'it has no 1\.m'):
        narrow(laid_out(True), plan)


def test_a_buffer_of_another_layer_must_be_there():
    x = torch.rand(1, 3, 8, 8)
    plan = plan_of_one_that_ran(laid_out(False), x)
    other = nn.Sequential(*laid_out(False))
    other[1] = nn.ReLU()
    with pytest.raises(PruningError, match=r'it has no 1\.m'):
        narrow(other, plan)
