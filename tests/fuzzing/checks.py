# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What must hold for every network, asked of one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from mmlapp.core import (
    ChannelPlan,
    PruningError,
    attach,
    merge_bypasses,
    narrow,
)

from .agreement import run, same
from .cases import Case, understood
from .counting import check_costs
from .masks import COUNTS, draw_mask
from .phases import meets_budget
from .training import trains


def narrows(case: Case, masks: tuple[str, ...] = tuple(COUNTS)) -> None:
    """Masked and narrowed networks compute and cost the same."""
    for name in masks:
        plan = case.mask(name)
        narrow_model = case.narrowed(plan)
        what = f'mask {name!r}'
        expected = run(case.masked, case.example)
        same(expected, run(narrow_model, case.example), what)
        if not case.network.fixed:
            x = case.network.example(1, batch=3, more=1)
            same(run(case.masked, x), run(narrow_model, x), f'{what}, resized')
        check_costs(case, plan, narrow_model, what)


def merges(case: Case) -> None:
    """Merged bypasses compute the same, and say why they stay."""
    narrow_model = case.narrowed(case.mask('random'))
    expected = run(narrow_model, case.example)
    found = merge_bypasses(narrow_model)
    same(expected, run(narrow_model, case.example), 'merged')
    assert all(reason is None or reason for reason in found.values())


def copies(case: Case) -> None:
    """Copies, files and fresh networks all compute the same."""
    plan = case.mask('random')
    expected = run(case.masked, case.example)
    same(expected, run(copy.deepcopy(case.masked), case.example), 'copied')
    narrow_model = case.narrowed(plan)
    read = ChannelPlan.from_json(plan.to_json())
    assert read == plan, 'the plan is another one when it was written'
    fresh = narrow(case.network.build(), read)
    fresh.load_state_dict(narrow_model.state_dict())
    same(expected, run(fresh, case.example), 'loaded')
    again = copy.deepcopy(case.masked)
    # Another mask, which the state dict replaces.
    again.pruner.set_mask(torch.ones_like(case.pruner.mask))
    again.load_state_dict(case.masked.state_dict())
    same(expected, run(again, case.example), 'mask loaded')


def prunes_again(case: Case) -> None:
    """A narrowed network can be pruned once more, its bypasses merged."""
    small = case.narrowed(case.mask('half'))
    merge_bypasses(small)
    try:
        pruner = attach(small, case.example, unused=case.network.unused)
    except PruningError as error:
        raise understood(error) from error
    pruner.set_mask(draw_mask(pruner, case.rng, 'random'))
    expected = run(small, case.example)
    plan = pruner.plan()
    smaller = narrow(copy.deepcopy(small), plan)
    same(expected, run(smaller, case.example), 'pruned again')
    check_costs(case, plan, smaller, 'pruned again')


CHECKS: dict[str, Callable[[Case], None]] = {
    'narrows': narrows,
    'trains': trains,
    'copies': copies,
    'prunes again': prunes_again,
    'meets budget': meets_budget,
    'merges': merges,
}
