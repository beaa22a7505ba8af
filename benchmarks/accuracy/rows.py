# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The rows of the tables: what is pruned when, by whom, and trained how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from former import CURVATURE, NO_FLOOR

from .network import DEPTH

TARGET, HALF = 0.403, 0.5


@dataclass(frozen=True)
class Row:
    """One way to a small network.

    Args:
        method (str or Mapping, optional): Who decides which channels live, as
            ``mmlapp.core.attach`` takes it. Defaults to None: nobody.
        prune (str): When: ``'during'`` training, in a phase; ``'before'`` it,
            with new weights, a control that trains from scratch; ``'once'``,
            by Torch-Pruning's L1 where the phase of others ends. Defaults to
            ``'during'``.
        target (float): Fraction of the dense network's FLOPs.
        settings (Mapping): More arguments of ``attach``, or of
            ``prune_once``.
        widths_of (str): Row whose widths, of the same seed, a network that is
            pruned before training gets. Defaults to none.
        begin (float): Share of the run before the phase. Defaults to 0.
        phase (float): Share of the run that the phase takes. Defaults to 0.1.
        end (str, optional): What ends the phase earlier, as ``Pruner.begin``
            takes it. Defaults to None.
        equal_cost (bool): Whether training lasts as many epochs as cost what
            dense training does, a teacher's forward included. Defaults to
            False.
        average (float): Share by which an average of the weights follows
            them at every step, 0 for none.
        teacher (str): Row whose trained network, of the same seed, teaches
            this one. Defaults to none.
        lesson (str): What the network learns from, of ``LESSONS``. Defaults
            to labels.
        start (str): Row whose trained network, of the same seed, this one
            goes on with. Defaults to none.
        epochs (float): Of its training, over those of dense training, whole
            in the end. Defaults to 1.
        rate (float): Highest learning rate over that of the recipe. Defaults
            to 1.
        depth (int): Of the network. Defaults to 20.
        kind (str): Of the network, one of ``KINDS``. Defaults to ``resnet``.
        beside (int): Depth of the ResNet whose FLOPs shares are taken of.
            Defaults to 0: of this network.
    """

    method: str | Mapping[str, Any] | None = None
    prune: str = 'during'
    target: float = TARGET
    settings: Mapping[str, Any] = field(default_factory=dict)
    widths_of: str = ''
    begin: float = 0.0
    phase: float = 0.1
    end: str | None = None
    equal_cost: bool = False
    average: float = 0.0
    teacher: str = ''
    lesson: str = 'labels'
    start: str = ''
    epochs: float = 1.0
    rate: float = 1.0
    depth: int = DEPTH
    kind: str = 'resnet'
    beside: int = 0

    @property
    def needs(self) -> list[str]:
        """Rows that are to be run before, with the same seed."""
        found = self.widths_of, self.teacher, self.start
        return [name for name in found if name]


def lapp(update: str | Mapping[str, Any] = 'balance', **changes: Any) -> Row:
    """LAPP while training, with another rule of its thresholds."""
    # Without the floor that is its default, unless the row says something
    # else: most rows were trained when there was none.
    settings = {**NO_FLOOR, **changes.pop('settings', {})}
    method = {'type': 'lapp', 'update': update}
    return Row(method=method, settings=settings, **changes)


def near(update: str | Mapping[str, Any] = 'balance', **changes: Any) -> Row:
    """LAPP with the floor that is its default today."""
    settings = {**NEAR, **changes.pop('settings', {})}
    return lapp(update, settings=settings, **changes)


def curvature(task_weight: float = 0.3, **changes: Any) -> Row:
    """LAPP by squared gradients, its default when most rows were trained."""
    update = {**CURVATURE['update'], 'task_weight': task_weight}
    return lapp(update, **changes)


def before(**changes: Any) -> Row:
    """The same share of every inner width, from scratch."""
    # Without residual streams, unless the row says something else.
    settings = {**INNER, **changes.pop('settings', {})}
    return Row('uniform', 'before', settings=settings, **changes)


def refined(start: str) -> Row:
    """CURL's second stage, at a hundredth of the rate."""
    return Row(
        start=start, teacher='dense', lesson='refined', epochs=0.2, rate=0.01
    )


def one_shot(score: str, **changes: Any) -> Row:
    """A trained network, ranked once by a score, and trained again."""
    cost = changes.pop('cost', None)
    return Row(
        {'type': 'ranking', 'steps': 1, 'cost': cost},
        target=HALF,
        settings={'score': score, **changes},
        # A phase of a single step, before the first one of the recipe.
        phase=0,
        start='dense',
    )


def wide_late(width: int) -> float:
    """Least shares that move width from early to late stages."""
    return {32: 0.45, 64: 0.6}.get(width, 0.0)


BALANCE = {'type': 'balance'}
# All groups but residual streams.
INNER, ALL = {'keep_streams': True}, {'keep_streams': False}
# Single filters go, and a depthwise convolution emits their channels.
FILTERS = {'unit': 'filters', 'bypass': 'depthwise'}
# Floors of what information cannot go around, such as streams: half of the
# channels, and as by default.
PATHS, NEAR = {'min_keep': 'sole_path'}, {'min_keep': 'near_uniform'}
RANDOM = Row({'type': 'random', 'spread': 0.5}, 'before', settings=INNER)
HEADLINE = {
    'dense': Row(),
    'uniform': before(),
    'random': RANDOM,
    'one-shot': Row(prune='once'),
    'one-shot-alike': Row(prune='once', settings={'alike': True}),
    'lapp': lapp(),
    'lapp-near': lapp(settings=NEAR),
    'lapp-inner': lapp(settings=INNER),
    'lapp-scratch': Row(prune='before', widths_of='lapp'),
    'lapp-inner-scratch': Row(
        prune='before', widths_of='lapp-inner', settings=INNER
    ),
    'lapp-inner-scratch-cost': Row(
        prune='before',
        widths_of='lapp-inner-cost',
        settings=INNER,
        equal_cost=True,
    ),
    # Squares or not: nothing is done with them.
    'lapp-no-task': lapp({**BALANCE, 'task_weight': 0}),
    'lapp-cost': lapp(equal_cost=True),
    'lapp-near-cost': lapp(settings=NEAR, equal_cost=True),
    'lapp-inner-cost': lapp(settings=INNER, equal_cost=True),
    'filters-depthwise': lapp(settings=FILTERS),
    'filters-depthwise-cost': lapp(settings=FILTERS, equal_cost=True),
    'filters-uniform': before(settings={**ALL, **FILTERS}),
    'lapp-inner-distilled': lapp(
        settings=INNER, teacher='dense', lesson='logits'
    ),
    'lapp-inner-distilled-cost': lapp(
        settings=INNER, teacher='dense', lesson='logits', equal_cost=True
    ),
    'curvature': curvature(),
    'curvature-scratch': Row(prune='before', widths_of='curvature'),
    'curvature-cost': curvature(equal_cost=True),
    'curvature-merged-cost': curvature(
        settings={'bypass': 'asymmetric'}, equal_cost=True
    ),
    'uniform-cost': before(equal_cost=True),
    'uniform-distilled-cost': before(
        teacher='dense', lesson='logits', equal_cost=True
    ),
    'curvature-distilled': curvature(teacher='dense', lesson='logits'),
}
INGREDIENTS = {
    'dense': Row(),
    'dense-asymmetric': Row(prune='before', settings={'bypass': 'asymmetric'}),
    'uniform': before(),
    'stream': before(settings=ALL),
    'late': before(settings={'min_keep': wide_late}),
    # ResNet-14 has 0.655 of the multiply-adds of ResNet-20.
    'shallow': before(depth=14, beside=DEPTH, target=TARGET / 0.655),
    'twin': before(settings={'bypass': 'twin'}),
    'asymmetric': before(settings={'bypass': 'asymmetric'}),
    'repvgg': before(settings={'bypass': 'repvgg'}),
    'average': before(average=0.005),
    'cost': before(equal_cost=True),
    'cost-asymmetric': before(
        equal_cost=True, settings={'bypass': 'asymmetric'}
    ),
    'cost-average': before(equal_cost=True, average=0.005),
    'cost-late': before(equal_cost=True, settings={'min_keep': wide_late}),
}
ABLATION = {
    'dense': Row(),
    'uniform': before(),
    'random': RANDOM,
    'lapp': lapp(),
    'lapp-1': lapp({**BALANCE, 'task_weight': 1}),
    'lapp-inner': lapp(settings=INNER),
    'lapp-inner-1': lapp({**BALANCE, 'task_weight': 1}, settings=INNER),
    'lapp-paths': lapp(settings=PATHS),
    'lapp-near': lapp(settings=NEAR),
    'lapp-long': lapp(phase=0.3),
    'gradient': lapp('gradient'),
    'no-task': lapp({**BALANCE, 'task_weight': 0}),
    'curvature': curvature(),
    'curvature-1': curvature(1),
    'curvature-inner': curvature(settings=INNER),
    'curvature-inner-1': curvature(1, settings=INNER),
    'curvature-long': curvature(phase=0.3),
    'curvature-floor-0.2': curvature(settings={'min_keep': 0.2}),
    'curvature-divisor-8': curvature(settings={'divisor': 8}),
    'lapp-floor-0.2': lapp(settings={'min_keep': 0.2}),
    # With its floor of today, and one setting more.
    'near-early': near(phase=0.05),
    'near-later': near(begin=0.2),
    'near-long': near(phase=0.3),
    'near-stable': near(phase=0.3, end='stable'),
    'near-shrink': near(settings={'shrink': 100}),
    'near-divisor-4': near(settings={'divisor': 4}),
    'near-divisor-8': near(settings={'divisor': 8}),
    'near-gradient': near('gradient'),
    'near-no-task': near({**BALANCE, 'task_weight': 0}),
    'near-taylor': near(settings={'score': 'taylor'}),
    'near-inner': near(settings=INNER),
    'filters-pointwise': lapp(
        settings={'unit': 'filters', 'bypass': 'pointwise'}
    ),
    'filters-depthwise': lapp(settings=FILTERS),
    'filters-uniform': before(settings={**ALL, **FILTERS}),
    # The same beside channels that go as a whole.
    'channels-depthwise': near(settings={'bypass': 'depthwise'}),
    'ranking-l2': Row('ranking'),
    # The single channels of least harm per cost, p^2 / c.
    'ranking-taylor': Row(
        {'type': 'ranking', 'cost': 'divide'},
        settings={'score': 'taylor', 'normalisation': 'none'},
    ),
    'late-scratch': before(settings={'min_keep': wide_late}),
    'stream-scratch': before(settings=ALL),
}
# What is compared at other budgets, and of other networks.
COMPARED = {
    'uniform': before(),
    'random': RANDOM,
    'lapp': lapp(),
    'lapp-inner': lapp(settings=INNER),
    'lapp-near': lapp(settings=NEAR),
}
CURVE = {
    'dense': Row(),
    **{
        f'{name}-{100 * target:g}': replace(row, target=target)
        for target in (0.7, 0.55, 0.25)
        for name, row in COMPARED.items()
    },
}
RESNET56 = {
    name: replace(row, depth=56, target=HALF)
    for name, row in {'dense': Row(), **COMPARED}.items()
}
# It adds nothing up, and so has no streams to leave whole.
VGG16 = {
    'dense': Row(depth=16, kind='vgg'),
    **{
        name: replace(row, depth=16, kind='vgg', target=HALF, settings=ALL)
        for name, row in COMPARED.items()
        if name != 'lapp-inner'
    },
}
FAMILY = {
    'dense': Row(),
    'uniform': before(target=HALF),
    'lapp': lapp(target=HALF),
    'lapp-inner': lapp(target=HALF, settings=INNER),
    'curvature': curvature(target=HALF),
    'ranking': Row('ranking', target=HALF),
    'ranking-taylor': replace(ABLATION['ranking-taylor'], target=HALF),
    'one-cycle': Row(
        'one_cycle',
        target=HALF,
        settings={
            'score': 'group_norm',
            'normalisation': 'none',
            'min_keep': 0.25,
        },
    ),
    'psap': Row('psap', target=HALF, settings={'protect': 0.5}),
    'admm': Row('admm', target=HALF),
    'soft': Row('soft', target=HALF, settings={'score': 'operation_aware'}),
    'adaptive-l1': Row(
        'adaptive_l1',
        target=HALF,
        settings={'unit': 'stripes', 'normalisation': 'none'},
    ),
    'curl': one_shot('kl_divergence', normalisation='none', min_keep=0.3),
    'cpmc': one_shot('cpmc', normalisation='none', cost='divide_all'),
    'functionality': one_shot('functionality'),
}
LIMITED = {
    'dense': Row(),
    'lapp': lapp(target=HALF),
    'lapp-distilled': lapp(target=HALF, teacher='dense', lesson='mixup'),
    'lapp-refined': refined('lapp-distilled'),
    'curvature': curvature(target=HALF),
    'curvature-distilled': curvature(
        target=HALF, teacher='dense', lesson='mixup'
    ),
    'curvature-refined': refined('curvature-distilled'),
}
TABLES: dict[str, dict[str, Row]] = {
    'headline': HEADLINE,
    'ingredients': INGREDIENTS,
    'ablation': ABLATION,
    'curve': CURVE,
    'resnet56': RESNET56,
    'vgg16': VGG16,
    'family': FAMILY,
    'limited': LIMITED,
}
