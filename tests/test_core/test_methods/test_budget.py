# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmlapp.core import PruningError
from mmlapp.core.methods.budget import (
    Budget,
    check_divisor,
    first_fitting,
    floor_mask,
    reachable,
)
from mmlapp.core.methods.budget import snap as snap_within

SIZES = [12, 5, 30]
GROUP = torch.arange(3).repeat_interleave(torch.tensor(SIZES))
MARGIN = torch.linspace(-1, 1, len(GROUP))[
    torch.randperm(len(GROUP), generator=torch.Generator().manual_seed(0))
]


def snap(cost, margin, group, floors, limit, divisor=1):
    """Within one budget, as most tests need it."""
    return snap_within(Budget([(cost, limit)]), margin, group, floors, divisor)


def flops(mask):
    """A chain of layers: products of neighbouring widths."""
    a, b, c = (m.sum() for m in mask.split(SIZES))
    return 27 * a + 9 * a * b + 3 * b * c + c


@pytest.mark.parametrize('floors', [[0, 0, 0], [1, 1, 1], [12, 2, 7]])
def test_floor_keeps_the_best_of_each_group(floors):
    mask = floor_mask(MARGIN, GROUP, floors)
    parts = zip(mask.split(SIZES), MARGIN.split(SIZES), strict=True)
    for floor, (kept, margin) in zip(floors, parts, strict=True):
        assert kept.sum() == floor
        if 0 < floor < len(kept):
            assert margin[kept].min() > margin[~kept].max()


def test_reachable_is_the_cost_of_the_floors():
    assert reachable(flops, MARGIN, GROUP, [1, 2, 3]) == 27 + 18 + 18 + 3


DENSE = float(flops(torch.ones(sum(SIZES))))


@pytest.mark.parametrize('share', [0.95, 0.7, 0.5, 0.403, 0.25])
@pytest.mark.parametrize('floors', [[1, 1, 1], [4, 2, 5], [0, 0, 0]])
def test_the_largest_network_within_the_budget(share, floors):
    budget = share * DENSE
    mask = snap(flops, MARGIN, GROUP, floors, budget)
    used = float(flops(mask.double()))
    assert used <= budget
    for channel in (~mask).nonzero()[:, 0]:
        larger = mask.clone()
        larger[channel] = True
        assert float(flops(larger)) > budget
    for floor, part in zip(floors, mask.split(SIZES), strict=True):
        assert part.sum() >= floor


def test_each_group_keeps_its_best_channels():
    mask = snap(flops, MARGIN, GROUP, [1, 1, 1], 0.4 * DENSE)
    for kept, margin in zip(
        mask.split(SIZES), MARGIN.split(SIZES), strict=True
    ):
        assert 0 < kept.sum() < len(kept)
        assert margin[kept].min() > margin[~kept].max()


PAIR = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
PAIR_MARGIN = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.95, 0.5, 0.4, 0.3])


def cost(mask):
    """Channels of the second group are dearer."""
    return 10 * mask[:4].sum() + 21 * mask[4:].sum()


def test_a_channel_makes_room_for_a_dearer_one():
    """Adding alone ends at 4 x 10 + 21; 2 x 10 + 2 x 21 is larger."""
    mask = snap(cost, PAIR_MARGIN, PAIR, [1, 1], 64.9)
    assert cost(mask.double()) == 62
    assert mask.nonzero()[:, 0].tolist() == [0, 1, 4, 5]
    # Near enough to the budget nothing is exchanged.
    assert cost(snap(cost, PAIR_MARGIN, PAIR, [1, 1], 61).double()) == 61


def test_an_exchange_leaves_the_floor_alone():
    mask = snap(cost, PAIR_MARGIN, PAIR, [4, 1], 64.9)
    assert mask.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_common_offset_decides_between_groups():
    """Without room to fill, what is kept lies above one margin."""
    mask = snap(lambda m: m.sum(), MARGIN, GROUP, [0, 0, 0], 20)
    assert mask.sum() == 20
    assert MARGIN[mask].min() > MARGIN[~mask].max()


def test_a_budget_that_holds_all_keeps_all():
    assert snap(flops, MARGIN, GROUP, [1, 1, 1], DENSE).all()


def test_a_budget_that_holds_the_floors_alone():
    floors = [1, 1, 1]
    lowest = reachable(flops, MARGIN, GROUP, floors)
    mask = snap(flops, MARGIN, GROUP, floors, lowest)
    assert torch.equal(mask, floor_mask(MARGIN, GROUP, floors))


def test_a_budget_below_the_floors():
    with pytest.raises(PruningError, match=r'minimum, which is 4\.0000 times'):
        snap(flops, MARGIN, GROUP, [1, 1, 1], 10.0)


@pytest.mark.parametrize('divisor', [2, 4, 8])
@pytest.mark.parametrize('floors', [[0, 0, 0], [1, 1, 1], [5, 2, 9]])
@pytest.mark.parametrize('share', [0.9, 0.65])
def test_kept_channels_are_multiples_of_the_divisor(divisor, floors, share):
    mask = snap(flops, MARGIN, GROUP, floors, share * DENSE, divisor)
    assert float(flops(mask.double())) <= share * DENSE
    parts = zip(mask.split(SIZES), MARGIN.split(SIZES), strict=True)
    for floor, (kept, margin) in zip(floors, parts, strict=True):
        count = int(kept.sum())
        assert count == len(kept) or count % divisor == 0
        assert count >= floor
        if 0 < count < len(kept):
            assert margin[kept].min() > margin[~kept].max()


def test_a_small_last_chunk_does_not_go_before_the_others():
    """Of ten channels eight are too many; the two worst ones are not."""
    margin = torch.linspace(1, 0, 10)
    mask = snap(torch.sum, margin, torch.zeros(10).long(), [0], 5.0, 8)
    assert not mask.any()


@pytest.mark.parametrize('share', [0.5, 0.7, 0.9])
def test_no_further_chunk_fits(share):
    mask = snap(flops, MARGIN, GROUP, [1, 1, 1], share * DENSE, 4)
    for g in range(3):
        out = ((g == GROUP) & ~mask).nonzero()[:, 0]
        larger = mask.clone()
        larger[out[:4]] = True
        assert not len(out) or float(flops(larger.double())) > share * DENSE


def test_each_group_may_have_a_divisor_of_its_own():
    mask = snap(flops, MARGIN, GROUP, [1, 1, 1], 0.5 * DENSE, [8, 1, 4])
    kept = [int(part.sum()) for part in mask.split(SIZES)]
    for count, size, divisor in zip(kept, SIZES, (8, 1, 4), strict=True):
        assert count == size or count % divisor == 0
    assert kept[1] % 4


def test_the_minimum_that_a_divisor_leaves():
    # 8 of 12, all 5, which are fewer than a chunk, and 8 of 30.
    expected = 27 * 8 + 9 * 8 * 5 + 3 * 5 * 8 + 8
    assert reachable(flops, MARGIN, GROUP, [1, 1, 1], 8) == expected


def parameters(mask):
    """A second cost, in which the last group is dear."""
    a, b, c = (m.sum() for m in mask.split(SIZES))
    return a + b + 50 * c


@pytest.mark.parametrize('shares', [(0.4, 0.9), (0.9, 0.4), (0.5, 0.5)])
def test_several_budgets_hold_together(shares):
    whole = torch.ones(sum(SIZES))
    limits = [
        (cost, share * float(cost(whole)))
        for cost, share in zip((flops, parameters), shares, strict=True)
    ]
    mask = snap_within(Budget(limits), MARGIN, GROUP, [1, 1, 1]).double()
    used = [float(cost(mask)) / limit for cost, limit in limits]
    assert max(used) <= 1
    assert max(used) > 0.97
    for channel in (mask == 0).nonzero()[:, 0]:
        larger = mask.clone()
        larger[channel] = 1
        assert max(used) > 0.999 or Budget(limits).used(larger) > 1


def test_a_limit_is_exceeded_by_the_last_bit_alone():
    """The quotient rounds to one; the comparison does not."""
    limit = 3.0
    above = torch.nextafter(
        torch.tensor(limit).double(), torch.tensor(4.0).double()
    )
    assert Budget([(lambda m: above, limit)]).used(torch.ones(1)) > 1
    below = above.new_tensor(limit)
    assert Budget([(lambda m: below, limit)]).used(torch.ones(1)) == 1


def test_the_beginning_of_an_order_that_fits():
    budget = Budget([(flops, 0.5 * DENSE)])
    mask = first_fitting(budget, MARGIN, GROUP, [0, 0, 0])
    assert budget.used(mask.double()) <= 1
    assert MARGIN[mask].min() > MARGIN[~mask].max()
    mask[MARGIN.masked_fill(mask, -2).argmax()] = True
    assert budget.used(mask.double()) > 1


def test_the_floors_stay_where_nothing_fits():
    budget = Budget([(flops, 1.0)])
    mask = first_fitting(budget, MARGIN, GROUP, [1, 2, 3])
    assert torch.equal(mask, floor_mask(MARGIN, GROUP, [1, 2, 3]))


@pytest.mark.parametrize('divisor', ['8', 8.0, True, 0, -1, None, [8]])
def test_divisors_are_whole_numbers(divisor):
    with pytest.raises(
        PruningError, match=r'divisor=.* a whole number from 1'
    ):
        check_divisor(divisor)


@pytest.mark.parametrize('seed', range(20))
def test_equal_ranks_leave_multiples_of_the_divisor(seed):
    """The short last chunk has no better claim than the others."""
    dice = torch.Generator().manual_seed(seed)
    # A mean of equal numbers need not be equal to them when it is rounded.
    margin = torch.rand(1, generator=dice).expand(30).clone()
    group = torch.zeros(30, dtype=torch.int64)
    for floor in range(1, 29, 4):
        mask = snap(torch.sum, margin, group, [floor], 29.0, 7)
        assert mask.sum() in (7, 14, 21, 28)
        least = reachable(torch.sum, margin, group, [floor], 7)
        assert least == min(-(-floor // 7) * 7, 30)


def test_what_costs_nothing_comes_back():
    """Time that grows in steps: of 16 channels, whatever is asked for."""

    def steps(mask):
        return sum(torch.ceil(m.sum() / 16) for m in mask.split([32] * 3))

    group = torch.arange(3).repeat_interleave(32)
    # All of the budget is used by 9 channels of each group, 6 by 16 fit.
    margin = torch.rand(96, generator=torch.Generator().manual_seed(1))
    for limit, kept in ((3, 48), (4, 64), (5, 80)):
        mask = snap(steps, margin, group, [9, 9, 9], limit)
        assert (int(steps(mask)), int(mask.sum())) == (limit, kept)
