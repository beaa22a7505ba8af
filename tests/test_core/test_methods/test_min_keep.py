# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The least share of every group, whatever the method is."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from pruning_steps import at_step, decide, kept_by_group, train

from mmlapp.core import PruningError, PruningWarning, attach
from mmlapp.core.methods import METHODS as METHOD_NAMES
from mmlapp.core.methods.min_keep import (
    ByWidth,
    NearUniform,
    least_channels,
    least_share,
)

METHODS = (
    'lapp',
    dict(type='lapp', update='gradient'),
    'uniform',
    dict(type='random', spread=2.0),
    'ranking',
)
# Of the groups of the shared network: a, b and c.
WIDTHS = 8, 12, 16


def test_shares_are_rounded_up_exactly():
    """Against whole numbers: 0.07 of 100 channels are 7, not 8."""
    for percent, width in itertools.product(range(101), range(1, 130)):
        expected = math.ceil(Fraction(percent, 100) * width)
        share = least_share(percent / 100)
        assert least_channels(share, width, 0) == expected


def test_what_a_network_needs_is_kept():
    assert least_channels(least_share(0), 64, 1) == 1
    assert least_channels(least_share(0.5), 3, 2) == 2
    assert least_channels(least_share(1), 3, 2) == 3


def test_shares_by_width_are_those_of_ocspruner():
    """Of 16, 64 and 512 channels 16, 46 and 75 % may go."""
    for width, share in ((16, 0.16), (64, 0.46), (512, 0.75)):
        assert 1 - ByWidth()(width) == pytest.approx(share, abs=0.005)
    limited = least_share(dict(type='by_width', most=0.5, rate=1.0))
    assert least_channels(limited, 100, 1) == 50


@pytest.mark.parametrize(
    ('choice', 'text'),
    [
        (1.5, 'min_keep=1.5: expected a number from 0 to 1'),
        (-0.1, 'min_keep=-0.1: expected'),
        (True, 'min_keep=True: expected'),
        (float('nan'), 'min_keep=nan: expected'),
        ('wide', "min_keep='wide' is unknown; choose one of: by_width"),
        ('0.3', "min_keep='0.3' is unknown"),
        (dict(type='by_width', most=2), 'min_keep by_width most=2: expected'),
        (dict(type='by_width', rate=0), 'min_keep by_width rate=0: expected'),
        (dict(type='by_width', limit=1), 'limit=1: .* no such argument'),
        (dict(type='sole_path', share=2), 'min_keep sole_path share=2: exp'),
        (dict(type='sole_path', others=-1), 'sole_path others=-1: expected'),
        (dict(type='near_uniform', share=1.1), 'near_uniform share=1.1: exp'),
        (lambda width: width, 'min_keep of a group of 8 channels=8: expect'),
        (lambda width: None, 'min_keep of a group of 8 channels=None: exp'),
    ],
)
def test_what_is_no_share(model, images, choice, text):
    with pytest.raises(PruningError, match=text):
        attach(model, images, min_keep=choice)
    assert not hasattr(model, 'pruner')


@pytest.mark.parametrize('method', METHODS)
def test_no_network_of_the_phase_keeps_less(model, images, method):
    pruner = attach(model, images, method=method, min_keep=0.4)
    # Rounded up: 3.2, 4.8 and 6.4.
    assert pruner.floors == [4, 5, 7]
    pruner.begin({'flops': 0.38}, 12)
    for _ in range(12):
        train(model, images, 1)
        pairs = zip(kept_by_group(pruner), pruner.floors, strict=True)
        assert all(kept >= floor for kept, floor in pairs)
    assert pruner.ratios()['flops'] <= 0.38


@pytest.mark.parametrize('method', METHODS)
def test_no_network_of_the_phase_keeps_less_than_its_end_can(
    make, images, method
):
    """Of 8, 12 and 16 channels five and ten: nothing goes around them."""
    assert attach(make(), images, divisor=5).floors == [5, 5, 5]
    model = make()
    pruner = attach(model, images, method=method, divisor=5, min_keep=0.5)
    assert pruner.floors == [5, 10, 10]
    pruner.begin({'flops': 0.55}, 12)
    for _ in range(12):
        train(model, images, 1)
        pairs = zip(kept_by_group(pruner), pruner.floors, strict=True)
        assert all(kept >= floor for kept, floor in pairs)
    assert kept_by_group(pruner) == pruner.floors


def flops(counts):
    """Multiply-adds of the shared network by widths, at 8 x 8 and 3 x 3."""
    a, b, c = counts
    return 64 * 9 * (3 * a + a * b + b * c + 5 * c)


def allowed(width, share, divisor):
    """Multiples of the divisor, or all, that hold the share."""
    least = math.ceil(Fraction(share) * width)
    counts = {*range(0, width, divisor), width}
    return sorted(count for count in counts if count >= max(least, 1))


@pytest.mark.parametrize('divisor', [1, 3])
@pytest.mark.parametrize('share', ['1/10', '3/10', '1/2', '3/4'])
def test_the_end_of_the_phase_against_every_network(
    make, images, share, divisor
):
    """Reachable minimum and exact budget, of all that a floor allows."""
    choices = [allowed(width, share, divisor) for width in WIDTHS]
    ratios = sorted(
        flops(counts) / flops(WIDTHS) for counts in itertools.product(*choices)
    )
    for target in (ratios[0], 0.3, 0.55, 0.8):
        if target < ratios[0]:
            continue
        model = make()
        pruner = attach(
            model,
            images,
            method='uniform',
            divisor=divisor,
            min_keep=float(Fraction(share)),
        )
        with pytest.raises(PruningError, match=r'lower min_keep|reachable'):
            pruner.begin({'flops': ratios[0] - 1e-9}, 1)
        # Rounded, the smallest one might lie above itself.
        target += 1e-12
        pruner.begin({'flops': target}, 1)
        pruner.step()
        found = pruner.ratios()['flops']
        best = max(ratio for ratio in ratios if ratio <= target)
        assert min(best, target - 0.01) - 1e-6 <= found <= target
        for kept, counts in zip(kept_by_group(pruner), choices, strict=True):
            assert kept in counts


def test_the_refusal_names_the_floor(model, images):
    pruner = attach(model, images, min_keep=0.5)
    with pytest.raises(PruningError, match=r'min_keep keeps.*lower min_k'):
        pruner.begin({'flops': 0.1}, 10)
    assert pruner.phase == 0


@pytest.mark.parametrize('update', ['balance', 'gradient'])
def test_thresholds_leave_the_floor_again(model, images, update):
    """What holds a group does not hold its threshold."""
    method = dict(type='lapp', update=update)
    pruner = attach(model, images, method=method, min_keep=0.5)
    pruner.begin({'flops': 0.5}, 200)
    with torch.no_grad():
        pruner.method.threshold.fill_(100)
    decide(pruner)
    assert kept_by_group(pruner) == [4, 6, 8]
    # A target far above: the constraint lets channels back.
    at_step(pruner, 20)
    most = [0, 0, 0]
    for _ in range(30):
        train(model, images, 1)
        most = list(map(max, most, kept_by_group(pruner)))
    assert all(
        kept > floor for kept, floor in zip(most, pruner.floors, strict=True)
    )


def test_a_mask_from_outside_needs_what_runs(model, images):
    """The floor is a wish about the budget, like the divisor."""
    pruner = attach(model, images, min_keep=0.5, divisor=4)
    mask = torch.zeros(sum(WIDTHS), dtype=torch.bool)
    mask[[0, 8, 20]] = True
    pruner.set_mask(mask)
    assert kept_by_group(pruner) == [1, 1, 1]
    mask[0] = False
    with pytest.raises(PruningError, match='keeps 0 channels of a, which n'):
        pruner.set_mask(mask)


def test_a_share_of_sole_paths_alone(net, conv, image):
    """A block adds to its input: what is inside of it may go."""

    def forward(m, x):
        x = m.stem(x).relu()
        return m.head(x + m.b(m.a(x).relu()))

    def floors(choice, **settings):
        model = net(
            forward,
            stem=conv(3, 12), a=conv(12, 9), b=conv(9, 12), head=conv(12, 5),
        )  # fmt: skip
        pruner = attach(model, image, min_keep=choice, **settings)
        return dict(zip(pruner.keep_ratios(), pruner.floors, strict=True))

    assert floors('sole_path') == {'stem': 6, 'a': 1}
    # The multiple of a divisor holds in the phase, too.
    assert floors(0, divisor=5) == {'stem': 5, 'a': 1}
    choice = dict(type='sole_path', share=0.25, others=0.2)
    assert floors(choice) == {'stem': 3, 'a': 2}
    # Others tell no groups apart.
    assert floors(0.5) == floors(lambda width: 0.5) == {'stem': 6, 'a': 5}
    for name in 'sole_path', 'near_uniform':
        said = f"min_keep='{name}': there is a way around every group"
        with pytest.warns(PruningWarning, match=said):
            assert floors(name, keep_streams=True) == {'a': 1}
    # The default of a method holds nothing there, and nobody asked for it.
    assert floors(None, keep_streams=True) == {'a': 1}


def uniform(target):
    """Counts of the largest uniform network within a target."""
    places = sorted((i + 0.5) / n for n in WIDTHS for i in range(n))
    cuts = [
        [sum((i + 0.5) / n <= place for i in range(n)) for n in WIDTHS]
        for place in places
    ]
    limit = target * flops(WIDTHS)
    return max(counts for counts in cuts if flops(counts) <= limit)


@pytest.mark.parametrize('share', [0.5, 0.75, 1.0])
@pytest.mark.parametrize('target', [0.3, 0.45, 0.7])
def test_floors_near_uniform_follow_the_target(make, images, target, share):
    model = make()
    choice = dict(type='near_uniform', share=share)
    pruner = attach(model, images, min_keep=choice)
    assert pruner.floors == [1, 1, 1]
    pruner.begin({'flops': target}, 30)
    # Nothing goes around any group of a chain. Rounded down.
    expected = [int(Fraction(share) * count) for count in uniform(target)]
    assert pruner.floors == pruner.least.tolist() == expected
    for _ in range(30):
        train(model, images, 1)
        pairs = zip(kept_by_group(pruner), expected, strict=True)
        assert all(kept >= floor for kept, floor in pairs)
    assert target - 0.1 < pruner.ratios()['flops'] <= target
    pruner.reset()
    assert pruner.floors == [1, 1, 1]
    # Those of another phase are of its target.
    pruner.begin({'flops': 0.9}, 30)
    assert pruner.floors == [int(Fraction(share) * k) for k in uniform(0.9)]


@pytest.mark.parametrize('divisor', [1, 3, 4, 5])
def test_no_target_is_out_of_reach_for_them(make, images, divisor):
    """A share of the whole uniform network itself, at every target."""
    choices = [allowed(width, '0', divisor) for width in WIDTHS]
    ratios = {
        flops(counts) / flops(WIDTHS) for counts in itertools.product(*choices)
    }
    lowest = min(ratios)
    for extra in (1e-12, 0.001, 0.01, 0.02, 0.05, 0.1, 0.3, 0.6):
        pruner = attach(
            make(),
            images,
            method='uniform',
            divisor=divisor,
            min_keep=dict(type='near_uniform', share=1),
        )
        target = lowest + extra * (1 - lowest)
        pruner.begin({'flops': target}, 1)
        pruner.step()
        assert pruner.ratios()['flops'] <= target
        for kept, floor in zip(
            kept_by_group(pruner), pruner.floors, strict=True
        ):
            assert floor % divisor == 0 or floor in WIDTHS or floor == 1
            assert kept >= floor


def test_floors_near_uniform_leave_what_is_inside_a_block(net, conv, image):
    def forward(m, x):
        x = m.stem(x).relu()
        return m.head(x + m.b(m.a(x).relu()))

    model = net(
        forward,
        stem=conv(3, 12), a=conv(12, 9), b=conv(9, 12), head=conv(12, 5),
    )  # fmt: skip
    pruner = attach(model, image)
    pruner.begin({'flops': 0.5}, 100)

    def cost(stem, a):
        return 3 * stem + 2 * stem * a + 5 * stem

    # Middles of places: 5.5 / 9 of `a` is 0.61, 7.5 / 12 of the stem 0.62.
    # So 7 and 6 channels are the uniform network, and the next one too large.
    assert cost(7, 6) <= cost(12, 9) / 2 < cost(8, 6)
    floors = dict(zip(pruner.keep_ratios(), pruner.floors, strict=True))
    # Nine tenths of 7, rounded down.
    assert floors == {'stem': 6, 'a': 1}


def test_lapp_alone_has_a_floor_by_itself(make, images):
    own = {name: METHOD_NAMES[name].min_keep for name in METHOD_NAMES}
    assert {name for name, floor in own.items() if floor} == {'lapp'}
    assert isinstance(attach(make(), images).min_keep, NearUniform)
    # Said otherwise it is what is said, and of others it is none.
    pruner = attach(make(), images, min_keep=0.5)
    assert pruner.floors == [4, 6, 8]
    for settings in dict(min_keep=0), dict(method='uniform'):
        pruner = attach(make(), images, **settings)
        pruner.begin({'flops': 0.5}, 100)
        assert pruner.floors == [1, 1, 1]


def test_floors_near_uniform_are_those_of_a_phase_that_goes_on(make, images):
    model, other = make(), make()
    pruner, resumed = (attach(each, images) for each in (model, other))
    pruner.begin({'flops': 0.4}, 30)
    train(model, images, 3)
    other.load_state_dict(model.state_dict())
    assert resumed.floors == pruner.floors != [1, 1, 1]
