# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What users tell of their blocks, and whom it holds for."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from mmlapp.core import PruningError, analyse, register_block
from mmlapp.core.trace.blocks import registry
from mmlapp.core.trace.blocks.registry import (
    adjust_attributes,
    cuts_follow,
    function_rule,
    register_function,
    rule_of,
)
from mmlapp.core.trace.labels import Labels


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, 'BLOCKS', dict(registry.BLOCKS))
    monkeypatch.setattr(registry, 'FUNCTIONS', dict(registry.FUNCTIONS))


class Wide(nn.Module):
    """Its forward reads the number of channels from an attribute."""

    def __init__(self, conv):
        super().__init__()
        self.width = 8
        self.a, self.b = conv(6, 8), conv(8, 6)

    def forward(self, x):
        y = self.a(x).reshape(len(x), self.width, *x.shape[2:])
        return self.b(y)


def follow_width(module):
    module.width = module.a.out_channels


def test_a_block_of_ones_own_is_adjusted(net, conv, agree):
    register_block('Wide', adjust=follow_width)
    model = net(lambda m, x: m.c(m.block(x)), block=Wide(conv), c=conv(6, 5))
    result = agree(model, torch.randn(2, 6, 8, 8).double())
    assert result.groups == {'block.a': 8, 'block.b': 6}
    assert result.slim.block.width == 4


class Noted(Wide):
    """It looks the number up where no attribute says it."""

    def __init__(self, conv):
        super().__init__(conv)
        self.width = {'a': 8}

    def forward(self, x):
        y = self.a(x).reshape(len(x), self.width['a'], *x.shape[2:])
        return self.b(y)


def test_without_a_registration_it_does_not_run_narrowed(net, conv, frozen):
    model = net(lambda m, x: m.c(m.block(x)), block=Noted(conv), c=conv(6, 5))
    reasons = frozen(model, torch.randn(2, 6, 8, 8).double())
    assert reasons['block.a'] == 'Noted does not run with fewer of them'


class TwoPaths(nn.Module):
    """Cuts its channels at an attribute, into pieces unlike."""

    def __init__(self, conv, cut):
        super().__init__()
        self.width, self.cut = 6, cut
        self.left, self.right = conv(6, 6), conv(2, 4)

    def forward(self, x):
        left, right = self.cut(x, self.width)
        return torch.cat([self.left(left), self.right(right)], dim=1)


CUTS = {
    'split': lambda x, width: x.split(width, dim=1),
    'split by both': lambda x, width: x.split(
        [width, x.shape[1] - width], dim=1
    ),
    'slices': lambda x, width: (x[:, :width], x[:, width:]),
}


def two_paths(net, conv, cut):
    return net(
        lambda m, x: m.c(m.block(m.a(x))),
        a=conv(3, 8),
        block=TwoPaths(conv, CUTS[cut]),
        c=conv(10, 5),
    )


def follow_left(module):
    module.width = module.left.in_channels


@pytest.mark.parametrize('cut', CUTS)
def test_a_block_that_cuts_at_its_attribute_is_freed(
    net, conv, image, agree, cut
):
    """Half of six and half of two channels: the cut moves to three."""
    register_block('TwoPaths', adjust=follow_left, cuts_by_attributes=True)
    result = agree(two_paths(net, conv, cut), image)
    assert sorted(result.groups.values()) == [2, 4, 6, 6]
    block = result.slim.block
    assert (block.width, block.right.in_channels) == (3, 1)


def free(model, image):
    """Groups of which channels may be removed, with their sizes."""
    groups = analyse(model.eval(), lambda: model(image)).groups
    return {group.name: group.size for group in groups.prunable}


@pytest.mark.parametrize(
    ('cut', 'sizes'),
    [('split', [2]), ('split by both', [2, 6]), ('slices', [2, 6])],
)
def test_without_a_registration_the_attribute_follows(
    net, conv, image, cut, sizes
):
    """One size of all pieces fits both where equal positions go."""
    found = free(two_paths(net, conv, cut), image)
    assert sorted(found.values()) == sorted([4, 6, *sizes])


@pytest.mark.parametrize(
    ('cut', 'pairs'), [('split', 2), ('split by both', 2), ('slices', 0)]
)
def test_to_adjust_the_attribute_does_not_tell_that_it_is_the_cut(
    net, conv, image, cut, pairs
):
    """A constant may cut: at most equal positions go, in equal numbers."""
    register_block('TwoPaths', adjust=follow_left)
    assert free(two_paths(net, conv, cut), image).get('a', 0) == pairs


def test_a_block_of_ones_own_is_followed_as_a_whole(net, conv, image, agree):
    """Sorting has no rule; the user knows that it is along the pixels."""

    class Sorted(nn.Module):
        def forward(self, x):
            return x.flatten(2).sort(dim=2).values.view(x.shape)

    def same_channels(tracer, module, args, out):
        labels = tracer.labels(args[0])
        tracer.note_reader(labels)
        tracer.set(out, Labels(dict(labels.axes)))

    register_block('Sorted', rule=same_channels)
    model = net(
        lambda m, x: m.b(m.sorted(m.a(x))),
        a=conv(3, 8),
        sorted=Sorted(),
        b=conv(8, 5),
    )
    assert agree(model, image).groups == {'a': 8}


class Base(nn.Module):
    pass


class Derived(Base):
    pass


def test_the_nearest_class_that_knows_the_answer_is_asked():
    def rule(tracer, module, args, out):
        pass

    register_block(
        'Base',
        adjust=lambda m: setattr(m, 'seen', 'base'),
        cuts_by_attributes=True,
    )
    register_block('Derived', rule=rule)
    derived = Derived()
    adjust_attributes(derived)
    assert derived.seen == 'base'
    assert cuts_follow(derived)
    assert rule_of(derived) is rule
    assert rule_of(Base()) is None

    register_block('Derived', adjust=lambda m: setattr(m, 'seen', 'derived'))
    adjust_attributes(derived)
    assert derived.seen == 'derived'
    assert rule_of(derived) is None  # replaced


def test_a_rule_is_not_for_a_block_built_otherwise():
    def rule(tracer, module, args, out):
        pass

    register_block('Base', rule=rule)
    register_block('Sequential', rule=rule, rule_applies=lambda m: len(m) == 2)
    base = Base()
    assert rule_of(base) is rule
    base.inside = nn.ReLU()
    assert rule_of(base) is None
    assert rule_of(nn.Sequential(nn.ReLU())) is None
    assert rule_of(nn.Sequential(nn.ReLU(), nn.ReLU())) is rule


@pytest.mark.parametrize(
    'error', [AttributeError, IndexError, KeyError, TypeError]
)
def test_another_class_of_the_name_is_left_alone(error):
    def adjust(module):
        raise error

    register_block('Base', adjust=adjust)
    adjust_attributes(Base())


def test_an_error_in_the_adjustment_itself_is_not_hidden():
    def adjust(module):
        raise ZeroDivisionError

    register_block('Base', adjust=adjust)
    with pytest.raises(ZeroDivisionError):
        adjust_attributes(Base())


@pytest.mark.parametrize('names', [(), ('Base',)])
def test_a_registration_that_tells_nothing_is_refused(names):
    adjust = follow_width if not names else None
    with pytest.raises(PruningError, match='tells nothing'):
        register_block(*names, adjust=adjust)


def test_cuts_cannot_follow_attributes_that_nobody_sets():
    with pytest.raises(PruningError, match='needs `adjust`'):
        register_block('Base', rule=print, cuts_by_attributes=True)


def test_functions_are_known_by_name():
    register_function('One', 'Two', rule=print)
    assert function_rule('One') is function_rule('Two') is print
    assert function_rule('Three') is None


PAGE = Path(__file__).parents[4] / 'docs' / 'blocks.md'


def test_what_the_page_shows_runs_as_it_stands_there():
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    small, whole = names['small'], names['whole']
    assert small[1].widths['left'] == small[1].left.in_channels < 6
    assert {g.name for g in whole.groups.prunable} == {'0'}


@pytest.mark.parametrize(
    'link', sorted(set(re.findall(r'\]\(([^)#:]+)\)', PAGE.read_text())))
)
def test_links_of_the_page_lead_to_files(link):
    assert (PAGE.parent / link).exists()
