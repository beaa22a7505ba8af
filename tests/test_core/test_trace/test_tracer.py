# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The forward that is recorded, and what it must leave alone."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mmlapp.core import attach
from mmlapp.core.trace import trace
from mmlapp.core.trace.rules import FALLBACK, RULES
from mmlapp.core.trace.tracer import OUTSIDE, WRITTEN, Tracer


def emitted(record, name):
    """Which channels of a layer are frozen, with the reason."""
    root = record.graph.resolve()
    reasons = record.graph.frozen_reasons(root)
    (site,) = [s for s in record.producers if s.module == name and s.dim == 0]
    nodes = root[site.start : site.start + site.size].tolist()
    return {reasons.get(node) for node in nodes}


def test_modes_are_put_back_even_one_by_one(net, conv, image):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x))),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 5),
    )
    model.train()
    model.norm.eval()
    trace(model, lambda: model(image))
    modes = {name: m.training for name, m in model.named_modules()}
    assert modes == {'': True, 'a': True, 'norm': False, 'b': True}


def test_statistics_are_not_touched(net, conv, image):
    model = net(
        lambda m, x: m.norm(m.a(x)), a=conv(3, 8), norm=nn.BatchNorm2d(8)
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, lambda: model(image))
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_an_error_of_the_network_leaves_no_trace(net, conv, image):
    def forward(m, x):
        m.a(x)
        raise RuntimeError('of the network')

    model = net(forward, a=conv(3, 8)).train()
    with pytest.raises(RuntimeError, match='of the network'):
        trace(model, lambda: model(image))
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


@dataclass
class Output:
    maps: list[Tensor]


class Sample:
    __slots__ = ()


Pair = namedtuple('Pair', 'first second')
WRAPPINGS = {
    'tensor': lambda x: x,
    'list': lambda x: [x],
    'dict': lambda x: {'maps': {'last': x}},
    'named tuple': lambda x: Pair(Sample(), x),
    'object': lambda x: Output([x]),
    'objects in objects': lambda x: (None, Output([Output([x])]), 3),
}


@pytest.mark.parametrize('name', WRAPPINGS)
def test_what_leaves_the_network_is_frozen(net, conv, image, name):
    wrap = WRAPPINGS[name]
    model = net(lambda m, x: wrap(m.a(x)), a=conv(3, 8))
    record = trace(model, lambda: model(image))
    assert emitted(record, 'a') == {'output of the network'}


def test_an_object_that_holds_itself_ends(net, conv, image):
    def forward(m, x):
        output = Output([m.a(x)])
        output.maps.append(output)
        return output

    model = net(forward, a=conv(3, 8))
    record = trace(model, lambda: model(image))
    assert emitted(record, 'a') == {'output of the network'}


def test_unknown_operators_are_counted(net, conv, image):
    model = net(
        lambda m, x: sum(
            y.renorm(2, 1, 1.0).sum() for y in (m.a(x), m.b(x), x)
        ),
        a=conv(3, 8),
        b=conv(3, 8),
    )
    record = trace(model, lambda: model(image))
    assert record.unknown == {'aten::renorm': 2}


def test_the_norm_right_behind_a_layer_is_known(net, conv, image):
    model = net(
        lambda m, x: m.b(m.norm(m.a(x)).relu()),
        a=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 5),
    )
    record = trace(model, lambda: model(image))
    assert record.norms == {'a': 'norm.weight'}
    assert record.shifts == {'a': 'norm.bias'}


def test_the_scale_of_a_norm_that_is_no_module_is_known(net, conv, image):
    def norm(m, x):
        return nn.functional.batch_norm(x, m.mean, m.variance, m.gain, m.shift)

    model = net(
        lambda m, x: m.b(norm(m, m.a(x)).relu()),
        a=conv(3, 8),
        gain=nn.Parameter(torch.rand(8)),
        shift=nn.Parameter(torch.rand(8)),
        mean=torch.zeros(8),
        variance=torch.ones(8),
        b=conv(8, 5),
    )
    record = trace(model, lambda: model(image))
    assert (record.norms, record.shifts) == ({'a': 'gain'}, {'a': 'shift'})
    pruner = attach(model, image, score='bn_scale')
    pruner.begin({'flops': 0.5}, 1)
    # Ranks of the magnitudes of the scale.
    assert torch.equal(pruner.scores.argsort(), model.gain.argsort())


def test_random_numbers_of_the_caller_are_not_consumed(net, conv, image):
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=conv(8, 5))
    torch.manual_seed(1)
    trace(model, lambda: model(image))
    found = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(found, torch.rand(3))


def test_operators_without_a_rule_are_taken_apart(net, conv, image):
    """They come whole where autograd does not listen; the trace is equal."""

    def forward(m, x):
        y = torch.cat(m.a(x).chunk(2, 1)[::-1], 1).movedim(2, 3)
        return m.c(m.b(y).flatten(1))

    model = net(forward, a=conv(3, 8), b=conv(8, 6), c=nn.Linear(384, 5))
    usual = trace(model, lambda: model(image))
    whole = trace(model, lambda: torch.inference_mode()(model)(image))
    assert whole.unknown == usual.unknown == {}
    assert whole.sites == usual.sites
    assert whole.producers == usual.producers
    assert torch.equal(whole.graph.resolve(), usual.graph.resolve())


def test_a_parameter_that_masks_would_not_reach(net, conv, image):
    """Read by a function that no module runs."""
    model = net(lambda m, x: m.b(x), a=conv(3, 8), b=conv(8, 6))
    outside = trace(
        model,
        lambda: model(nn.functional.conv2d(image, model.a.weight, padding=1)),
    )
    assert emitted(outside, 'a') == {OUTSIDE}


def test_a_parameter_that_the_forward_writes(net, conv, image):
    def forward(m, x):
        m.a.weight.data.clamp_(-1, 1)
        m.b.weight[:2].mul_(0.5)
        return m.c(m.b(m.a(x)))

    model = net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 5))
    record = trace(model, lambda: model(image))
    assert emitted(record, 'a') == emitted(record, 'b') == {WRITTEN}


def test_features_that_leave_in_an_heir_of_a_dictionary_stay(
    net, conv, image, frozen
):
    class Outputs(dict):
        """As those of many libraries."""

    def forward(m, x):
        features = m.b(m.a(x))
        return m.c(features), Outputs(features=features)

    model = net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 5))
    assert frozen(model, image)['b'] == 'output of the network'


def test_memory_that_a_tensor_has_left_is_that_of_others():
    """``x.data = y`` leaves a storage, and allocators give its place again."""
    tracer = Tracer(nn.Module(), RULES, FALLBACK)
    moved = torch.zeros(100)
    tracer.know(moved)
    left = moved.untyped_storage()._cdata
    moved.data = torch.zeros(100)
    others = (torch.zeros(2, 6, 4) for _ in range(100_000))
    # All of them are kept: each lies in another place.
    kept = []
    for other in others:
        kept.append(other)
        if other.untyped_storage()._cdata == left:
            break
    else:
        pytest.skip('its place is not given again')
    # The moved one is longer, and has nothing of the other.
    assert not tracer.knows_whole(other[:, :2])
    tracer.know(other)
    assert tracer.knows_whole(other[:, :2])


def test_what_takes_the_place_of_a_buffer_does_not_take_its_name():
    """Python gives the identity of an object that has died to others."""
    model = nn.Module()
    model.register_buffer('mean', torch.zeros(8))
    tracer = Tracer(model, RULES, FALLBACK)
    model.mean = None
    others = [torch.zeros(8) for _ in range(1000)]
    assert {tracer.name(other) for other in others} == {None}
