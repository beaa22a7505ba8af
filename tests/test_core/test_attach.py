# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What attaching promises to the network and to everyone who uses it."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mmlapp.core import (
    LAPP,
    PruningError,
    PruningWarning,
    analyse,
    attach,
    narrow,
    register_score,
)

FILTERS = dict(bypass='grouped', unit='filters')


class Small(nn.Module):
    """A class of its own, as users have them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@pytest.fixture
def model():
    return Small()


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 8)


def train(model, images, steps=8, target=0.5, wrapped=None):
    """The loop of the README."""
    pruner = model.pruner
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    pruner.begin({'flops': target}, steps)
    for _ in range(steps):
        loss = (wrapped or model)(images).square().mean() + pruner.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()


def picture(model):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    return (
        state,
        [(n, type(m)) for n, m in model.named_modules()],
        dict(model._forward_pre_hooks),
    )


def assert_untouched(model, before):
    state, modules, hooks = picture(model)
    assert modules == before[1]
    assert hooks == before[2]
    assert state.keys() == before[0].keys()
    assert all(torch.equal(state[k], v) for k, v in before[0].items())


def test_class_and_state_dict_keys_are_kept(model, images):
    keys = list(model.state_dict())
    pruner = attach(model, images)
    assert type(model) is Small
    assert model.pruner is pruner
    assert [k for k in model.state_dict() if 'pruner' not in k] == keys


def test_a_bypass_only_adds_keys(model, images):
    keys = list(model.state_dict())
    attach(model, images, bypass='grouped')
    added = [k for k in model.state_dict() if k not in keys]
    assert {k for k in added if 'pruner' not in k} == {
        'body.3.bypass.conv.weight'
    }


def test_parameters_are_the_same_objects(model, images):
    before = dict(model.named_parameters())
    attach(model, images)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[k] is after[k] for k in before)


def test_optimizers_never_see_the_thresholds(model, images):
    pruner = attach(model, images)
    ids = {id(p) for p in model.parameters()}
    assert id(pruner.method.threshold) not in ids
    assert not list(pruner.parameters())


def test_weight_decay_and_clipping_leave_thresholds_alone(model, images):
    pruner = attach(model, images)
    pruner.begin({'flops': 1.0}, 10)
    before = pruner.method.threshold.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    model(images).sum().backward()
    gradient = pruner.gate.grad.clone()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
    optimizer.step()
    assert torch.equal(pruner.method.threshold, before)
    assert torch.equal(pruner.gate.grad, gradient)


@pytest.mark.parametrize(
    'init',
    [
        lambda w: nn.init.constant_(w, 0.25),
        lambda w: nn.init.normal_(w),
        lambda w: w.data.fill_(3.0),
        lambda w: w.data.copy_(torch.zeros_like(w)),
    ],
)
@pytest.mark.parametrize('name', ['body.0', 'body.1', 'body.3'])
def test_initialisers_reach_the_stored_weights(model, images, init, name):
    """MMEngine initialises after the model was built."""
    attach(model, images)
    stored = dict(model.named_parameters())[f'{name}.weight']
    before = stored.detach().clone()
    init(model.get_submodule(name).weight)
    assert (stored != before).all()


def test_training_prunes_within_the_budget(model, images, count_macs):
    dense = count_macs(model.eval(), images)
    pruner = attach(model.train(), images)
    train(model, images, target=0.5)
    slim = narrow(copy.deepcopy(model), pruner.plan()).eval()
    assert 0.4 < count_macs(slim, images) / dense <= 0.5
    with torch.no_grad():
        torch.testing.assert_close(slim(images), model.eval()(images))


@pytest.mark.parametrize('settings', [{}, FILTERS])
def test_a_copy_is_independent(model, images, settings):
    """As an EMA keeps one."""
    attach(model, images, **settings)
    train(model, images, steps=4)
    copied = copy.deepcopy(model)
    expected = model(images).detach()
    copied.pruner.gate.zero_()
    with torch.no_grad():
        for p in copied.parameters():
            p.add_(1.0)
    assert torch.equal(model(images), expected)
    assert not torch.equal(copied(images), expected)
    model.pruner.set_mask(torch.ones_like(model.pruner.mask))
    assert not copied.pruner.mask.any()


def test_a_copy_prunes_on_its_own(model, images):
    """Scores come from the weights of the copy, not of the original."""
    attach(model, images)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float('nan'))
    train(copied, images, target=0.4)
    assert model.pruner.mask.all()
    assert copied.pruner.ratios()['flops'] <= 0.4


def test_a_copy_averages_like_the_network(model, images):
    averaged = torch.optim.swa_utils.AveragedModel
    attach(model, images)
    ema = averaged(model, use_buffers=True)
    train(model, images)
    ema.update_parameters(model)
    assert torch.equal(ema.module.pruner.mask, model.pruner.mask)
    narrow(ema.module, ema.module.pruner.plan())
    assert ema(images).isfinite().all()


def test_masks_come_back_from_a_checkpoint(model, images, tmp_path):
    attach(model, images)
    train(model, images)
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    fresh = Small()
    attach(fresh, images)
    fresh.load_state_dict(torch.load(tmp_path / 'model.pth'))
    assert torch.equal(fresh.pruner.mask, model.pruner.mask)
    assert torch.equal(fresh.eval()(images), model.eval()(images))
    assert fresh.pruner.plan() == model.pruner.plan()


def test_a_sequential_runs_as_before(images):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3))
    expected = model(images)
    attach(model, images)
    assert torch.equal(model(images), expected)


def test_masks_apply_from_the_first_forward_on(model, images):
    pruner = attach(model.eval(), images)
    dense = model.body(images)
    pruner.gate[:8] = 0
    assert torch.equal(model.body(images), dense)
    model(images)
    assert not torch.equal(model.body(images), dense)


def test_the_example_may_be_a_function(images):
    class Two(Small):
        def forward(self, x, y, *, scale):
            return super().forward(x + y) * scale

    model = Two()
    pruner = attach(model, lambda: model(images, images, scale=2.0))
    assert len(pruner.groups) == 2


def test_modes_are_kept(model, images):
    model.train()
    model.body[1].eval()
    attach(model, images, bypass='grouped')
    assert model.training
    assert not model.body[1].training
    assert model.body[3].bypass.training


UNKNOWN = {
    'score': "score='best' is unknown; choose one of: .*taylor",
    'method': "method='best' is unknown; choose one of: .*lapp",
    'normalisation': "normalisation='best' is unknown; choose one of: .*rank",
}


@pytest.mark.parametrize('name', UNKNOWN)
def test_unknown_choices_change_nothing(model, images, name):
    before = picture(model)
    with pytest.raises(PruningError, match=UNKNOWN[name]):
        attach(model, images, **{name: 'best'})
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (dict(method=dict(type='lapp', rate=1)), 'it takes update, surrog'),
        (dict(scope='neck'), "scope='neck' matches no"),
        (dict(scope='head'), "no channel can be pruned in scope='head'"),
        (dict(ignore='body'), 'no channel can be pruned.*ignored by the'),
    ],
)
def test_impossible_requests_change_nothing(model, images, arguments, match):
    before = picture(model)
    with pytest.raises(PruningError, match=match):
        attach(model, images, **arguments)
    assert_untouched(model, before)


def test_attaching_twice(model, images):
    attach(model, images)
    before = picture(model)
    with pytest.raises(PruningError, match='attach it only once'):
        attach(model, images)
    assert_untouched(model, before)


def test_attaching_to_a_part_and_to_the_whole(model, images):
    attach(model.body, images)
    before = picture(model)
    with pytest.raises(PruningError, match='of the model is already prun'):
        attach(model, images)
    assert_untouched(model, before)


@pytest.fixture
def process_group(tmp_path):
    """One real process of a distributed run."""
    dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_a_wrapped_model_is_refused(model, images, process_group):
    wrapped = nn.parallel.DistributedDataParallel(model)
    with pytest.raises(
        PruningError,
        match=r'wrapped in DistributedDataParallel: prune model\.module',
    ):
        attach(wrapped, images)
    with pytest.raises(PruningError, match='DistributedDataParallel'):
        analyse(wrapped, lambda: wrapped(images))
    assert not hasattr(model, 'pruner')


def test_data_parallel_is_refused(model, images):
    with pytest.raises(PruningError, match='wrapped in DataParallel'):
        attach(nn.DataParallel(model), images)


def test_a_model_is_wrapped_after_it_was_attached(
    model, images, process_group
):
    """Buffers are broadcast; the reducer does not wait for thresholds."""
    single = copy.deepcopy(model)
    attach(model, images)
    attach(single, images)
    wrapped = nn.parallel.DistributedDataParallel(model)
    train(model, images, wrapped=wrapped)
    train(single, images)
    assert torch.equal(model.pruner.mask, single.pruner.mask)
    torch.testing.assert_close(
        model.pruner.method.threshold, single.pruner.method.threshold
    )


def test_a_score_of_a_method_developer(model, images):
    """Ten lines: register, name, train."""

    @register_score('test_first_weight')
    def first_weight(channels):
        return channels.filters[:, 0].abs()

    pruner = attach(model, images, score='test_first_weight')
    pruner.begin({'flops': 0.5}, 10)
    first = model.state_dict()['body.0.weight'][:, 0, 0, 0].abs()
    assert pruner.scores[:8].argsort().tolist() == first.argsort().tolist()


@pytest.mark.parametrize(
    'score',
    ['l1', 'l2', 'bn_scale', 'fpgm', 'taylor', 'operation_aware', 'random'],
)
def test_every_score_prunes(model, images, score):
    attach(model, images, score=score)
    train(model, images, target=0.5)
    assert 0.4 < model.pruner.ratios()['flops'] <= 0.5


def test_the_scale_of_the_following_norm_is_seen(model, images):
    pruner = attach(model, images, score='bn_scale', normalisation='mean')
    with torch.no_grad():
        model.body[1].weight.copy_(torch.arange(8.0))
    pruner.begin({'flops': 0.5}, 10)
    torch.testing.assert_close(pruner.scores[:8], torch.arange(8.0) / 3.5)


def test_attaching_works_without_values():
    """On the meta device: nothing but shapes is needed."""
    model = Small().to('meta')
    pruner = attach(model, torch.empty(2, 3, 8, 8, device='meta'))
    assert {b.device.type for b in pruner.buffers()} == {'meta'}


@pytest.mark.parametrize('size', [8, 9])
@pytest.mark.parametrize('part', ['all', 'one'])
def test_weights_on_meta_and_an_example_with_values(size, part):
    model = Small()
    layer = model if part == 'all' else next(model.children())
    layer.to('meta')
    with pytest.raises(PruningError, match='weight of the model lies on the'):
        attach(model, torch.rand(2, 3, size, size))


def test_a_slim_network_can_be_pickled(model, images):
    pruner = attach(model, images)
    train(model, images)
    slim = narrow(model, pruner.plan()).eval()
    again = pickle.loads(pickle.dumps(slim))
    assert torch.equal(again(images), slim(images))


@pytest.mark.parametrize(
    ('settings', 'match'),
    [
        (dict(score=torch.nn.functional.relu), 'score=relu: expected a name'),
        (dict(method=LAPP), 'method=LAPP: .*an instance of Method'),
        (dict(unit=None), 'unit=None: .*names are channels, filters'),
        (dict(bypass=['depthwise']), r"bypass=\['depthwise'\]: expected"),
        (dict(normalisation=['rank']), 'normalisation=.* is unknown'),
        (dict(method=dict(type='lapp', update=5)), 'update=5: expected'),
        (dict(costs='flops'), "costs='flops': expected a list"),
        (dict(costs=None), 'costs=None: expected a list'),
        (dict(costs=[]), r'costs=\[\]: expected a list'),
        (dict(costs=[5]), 'cost=5: expected a name'),
    ],
)
def test_what_is_no_choice(model, images, settings, match):
    with pytest.raises(PruningError, match=match):
        attach(model, images, **settings)
    assert not hasattr(model, 'pruner')


def test_what_is_left_whole_is_told(model, images):
    pruner = attach(model, images)
    assert [(f.layer, f.channels) for f in pruner.frozen] == [('head', 5)]
    assert pruner.frozen[0].reason == 'output of the network'


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(also=print), r'also=builtin_function_or_method: .* a list of'),
        (dict(also='loss'), 'also=str: expected a list of functions'),
        (dict(analysis=3), 'analysis=int: expected what analyse'),
        (dict(costs=['flops', dict(type='flops')]), 'costs=.*each there once'),
    ],
)
def test_arguments_of_another_kind(model, images, arguments, text):
    with pytest.raises(PruningError, match=text):
        attach(model, images, **arguments)
    assert not hasattr(model, 'pruner')


def test_patterns_of_nothing_unused(model, images):
    text = r"unused='e\.\*' matches no parameter .*below: body, head"
    with pytest.warns(PruningWarning, match=text):
        attach(model, images, unused=['e.*'])


def test_an_example_without_elements(model):
    """All networks agree on it."""
    with pytest.raises(PruningError, match=r'\[\(0, 3, 8, 8\)\] have no elem'):
        attach(model, torch.empty(0, 3, 8, 8))


def test_a_pruner_that_was_deleted(model, images, pruner):
    del model.pruner
    with pytest.raises(PruningError, match=r'pruner was deleted.*Put it back'):
        model(images)
    model.pruner = pruner
    pruner.set_mask(torch.arange(len(pruner.gate)) > 0)
    assert narrow(model, pruner.plan())(images).shape[1] == 5
