# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A study as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from mmlapp.core.criteria.comparison import CONTROL, TOO_CLOSE

from ..pages.document import (
    NOTHING,
    document,
    row,
    table,
    warnings_list,
)
from ..sizes import cost_name
from .pictures import RIM, heat_map, kept_picture, quantile_plot, signed
from .study import Study
from .weights import LayerWeights

# A p-value below it speaks against what was tested.
UNLIKELY = 0.05
STYLE = """
.heat td{min-width:3rem;text-align:center;border:1px solid var(--page)}
.heat thead th{vertical-align:bottom;padding:.3rem .1rem;border:0;
text-align:center}
.heat thead th span{writing-mode:vertical-rl;transform:rotate(180deg)}
.heat thead td{border:0}
.strips td{padding:.1rem}.strips svg{display:block}
figure{width:9rem}
.plot{width:100%;border:1px solid var(--rule)}
"""
# Columns of the table of weights.
LAYER_COLUMNS = (
    'layer',
    'weights',
    'mean / std',
    'skewness',
    'excess kurtosis',
    'p normal',
    'p mean zero',
    'p symmetric',
)
DISPUTED_COLUMNS = 'group', 'channels', 'kept by all', 'by some', 'by none'


def page_of(study: Study) -> str:
    """Returns the page of a study.

    Args:
        study (Study): What was found.
    """
    sections = _top, _alike, _applicable, _budget, _weights, _rest
    return document(
        f'Scores of {_name(study)}',
        (part for section in sections for part in section(study)),
        STYLE,
    )


def _name(study: Study) -> str:
    return Path(study.config).stem


def _top(study: Study) -> Iterator[str]:
    groups = study.scores.groups
    yield f'<h1>How much do scores differ? {escape(_name(study))}</h1>'
    weights = escape(study.checkpoint or 'random')
    yield (
        f'<p class="soft">Config <code>{escape(study.config)}</code>, weights '
        f'<code>{weights}</code>, {len(groups)} groups with '
        f'{sum(groups.values())} channels, calibration batches: '
        f'{study.batches}.</p>'
    )
    yield warnings_list(study.warnings)


def _alike(study: Study) -> Iterator[str]:
    found = study.scores
    yield '<h2>Do scores rank alike?</h2>'
    yield (
        '<p>Spearman correlation of ranks: 1 for the same order, 0 for none, '
        '&minus;1 for the reverse. Within groups a score only has to compare '
        'channels of one width. In the whole network, with scores as they '
        'are, differences between layers count too.</p>'
    )
    yield heat_map(found.names, found.within_groups(), 'Mean over groups')
    yield heat_map(found.names, found.correlation(), 'All channels at once')


def _applicable(study: Study) -> Iterator[str]:
    found = study.scores
    yield '<h2>Can they tell channels apart?</h2>'
    yield (
        '<p>Coefficient of variation of each score in each group: standard '
        f'deviation over mean. Below {TOO_CLOSE:.0%}, marked !, the best and '
        'the worst channel nearly score the same. = names a score with the '
        'same values, such as where no norm follows.</p>'
    )
    yield table(
        ['group', 'channels', *found.names],
        (_variation_row(study, group) for group in found.groups),
    )


def _variation_row(study: Study, group: str) -> str:
    found = study.scores
    # Of equal columns one has numbers, the others its name.
    same = found.same_values(group)
    cells = (
        f'= {escape(same[name])}' if name in same else _percent(value)
        for name, value in found.variation(group).items()
    )
    return row(group, [str(found.groups[group]), *cells])


def _percent(value: float | None) -> str:
    if value is None:
        return NOTHING
    # By a sign as well, for who does not see the colour.
    if value < TOO_CLOSE:
        return f'<td class="low">{value:.1%} !</td>'
    return f'{value:.1%}'


def _budget(study: Study) -> Iterator[str]:
    found = study.scores
    aims = ', '.join(f'{value:.0%} of the {n}' for n, value in _aims(study))
    yield f'<h2>What would they keep at {escape(aims)}?</h2>'
    yield (
        '<p>The exact budget keeps what ranks highest (method <code>ranking'
        f'</code>, normalisation <code>{escape(study.normalisation)}</code>). '
        'Jaccard index of the kept channels: shared over all that either '
        f'keeps, mean over groups. <code>{CONTROL}</code> shows what chance '
        'gives, and is not asked about single channels.</p>'
    )
    yield heat_map(found.names, found.overlap(), 'Jaccard index')
    yield table(
        DISPUTED_COLUMNS,
        (_disputed_row(study, group) for group in found.groups),
    )
    yield from (_details(study, group) for group in found.groups)


def _aims(study: Study) -> Iterator[tuple[str, float]]:
    for name, value in study.target.items():
        yield cost_name(name), value


def _disputed_row(study: Study, group: str) -> str:
    found = study.scores
    table = {name: found.kept[name] for name in found.voters}
    kept, size = found.of_group(table, group), found.groups[group]
    # [voters, channels] -> by all, by some; the rest is kept by none.
    by_all, some = int(kept.all(dim=0).sum()), len(found.disputed(group))
    return row(group, map(str, (size, by_all, some, size - by_all - some)))


def _details(study: Study, group: str) -> str:
    found = study.scores
    kept = found.of_group(found.kept, group).tolist()
    flags = dict(zip(found.names, kept, strict=True))
    return (
        f'<details><summary>{escape(group)}: channels and correlation'
        f'</summary>{kept_picture(flags, group)}'
        f'{_votes(found.disputed(group), len(found.voters))}'
        f'{heat_map(found.names, found.correlation(group), "Correlation")}'
        '</details>'
    )


def _votes(disputed: Mapping[int, list[str]], voters: int) -> str:
    """Channels by how many scores keep them, most first."""
    by_count: dict[int, list[int]] = {}
    for channel, names in disputed.items():
        by_count.setdefault(len(names), []).append(channel)
    items = ''.join(
        f'<li>kept by {count} of {voters}: '
        f'{", ".join(map(str, by_count[count]))}</li>'
        for count in sorted(by_count, reverse=True)
    )
    return f'<ul>{items}</ul>' if items else '<p>All agree.</p>'


def _weights(study: Study) -> Iterator[str]:
    yield '<h2>How are the weights distributed?</h2>'
    yield (
        '<p>Where weights are normal with mean zero, norms of the filters of '
        'a layer differ by chance alone, and the less the wider it is '
        '(arXiv 2004.11627). p-values of at most 5,000 '
        'weights: normal by skewness and kurtosis (D&rsquo;Agostino and '
        'Pearson), mean zero (Student), symmetric around zero (Wilcoxon). '
        f'Below {UNLIKELY:.0%}, marked !, the weights speak against it.</p>'
    )
    yield table(LAYER_COLUMNS, map(_layer_row, study.layers))
    yield (
        '<p>Quantiles of the weights over those of a normal distribution, '
        f'both from &minus;{RIM:.0f} to {RIM:.0f} standard deviations: on the '
        'line if normal.</p>'
    )
    plots = ''.join(
        f'<figure>{quantile_plot(la.quantiles, f"quantiles of {la.layer}")}'
        f'<figcaption>{escape(la.layer)}</figcaption></figure>'
        for la in study.layers
        if la.quantiles
    )
    yield f'<div class="plots">{plots}</div>'


def _layer_row(layer: LayerWeights) -> str:
    # Equal weights have no deviation.
    ratio = layer.mean / layer.std if layer.std else None
    moments = ratio, layer.skewness, layer.excess_kurtosis
    tests = layer.normality, layer.zero_mean, layer.symmetry
    return row(
        layer.layer,
        [str(layer.weights), *map(_signed, moments), *map(_p_value, tests)],
    )


def _signed(value: float | None) -> str:
    return NOTHING if value is None else signed(value, 3)


def _p_value(value: float | None) -> str:
    if value is None:
        return NOTHING
    text = f'{value:.3f}' if value >= 0.001 else '&lt; 0.001'
    return f'<td class="low">{text} !</td>' if value < UNLIKELY else text


def _rest(study: Study) -> Iterator[str]:
    if study.scores.left_out:
        items = ''.join(
            f'<li><code>{escape(name)}</code>: {escape(reason)}</li>'
            for name, reason in study.scores.left_out.items()
        )
        yield f'<h2>Left out</h2><ul>{items}</ul>'
    yield (
        '<p class="soft">After the Convolution Weight Distribution '
        'study, arXiv 2004.11627. The numbers of this page, with the scores '
        'that keep each disputed channel, are in the JSON file beside it.</p>'
    )
