# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What comparing the scores of a network tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import PruningError
from ..hiding import show_again
from ..methods.schedule import check_targets
from ..misuse import check_all_live
from ..numbers import check_number
from ..pruner import Pruner
from ..score import NORMALISATIONS
from .collect import Calibration, check_names, collect_scores
from .measures import overlaps, spearman, variation

# A score that varies less than this in a group can hardly tell its channels
# apart (arXiv 2004.11627 asks for it; the number is ours).
TOO_CLOSE = 0.02
# It agrees with no other one by design, and is not asked about channels.
CONTROL = 'random'


@dataclass(frozen=True)
class ScoreComparison:
    """Scores of one network beside each other.

    Args:
        groups (dict[str, int]): Channels of every group, by name.
        values (dict[str, Tensor]): Scores as they are, by name; float64,
            ``[channels]``.
        left_out (dict[str, str]): Why other scores cannot be had, by name.
        kept (dict[str, Tensor]): What the exact budget keeps of the ranking
            by each score, bool ``[channels]``; empty without a target.
    """

    groups: dict[str, int]
    values: dict[str, Tensor]
    left_out: dict[str, str]
    kept: dict[str, Tensor]

    @property
    def names(self) -> list[str]:
        """Of the scores."""
        return list(self.values)

    @property
    def voters(self) -> list[str]:
        """Names of the scores that are asked about channels."""
        # Where the control is all that there is, it is asked after all.
        others = [name for name in self.names if name != CONTROL]
        return others or self.names

    def of_group(self, table: Mapping[str, Tensor], group: str) -> Tensor:
        """Stacks what all scores say of one group.

        Args:
            table (Mapping[str, Tensor]): ``values`` or ``kept``.
            group (str): Name of the group.

        Returns:
            Tensor: Shape ``[scores, channels of the group]``.
        """
        index = list(self.groups).index(group)
        sizes = list(self.groups.values())
        # [channels] -> [channels of the group], for each score.
        return torch.stack([row.split(sizes)[index] for row in table.values()])

    def correlation(self, group: str | None = None) -> Tensor:
        """Spearman correlation of all pairs of scores.

        Args:
            group (str, optional): Of one group; by default of the network,
                all channels in one order by the scores as they are.

        Returns:
            Tensor: Float64, ``[scores, scores]``, NaN where a score is the
            same everywhere.
        """
        if group is None:
            return spearman(torch.stack(list(self.values.values())))
        return spearman(self.of_group(self.values, group))

    def within_groups(self) -> Tensor:
        """Mean of the correlations of all groups where there is one.

        Returns:
            Tensor: Float64, ``[scores, scores]``.
        """
        # [groups, scores, scores]; NaN where a score is the same throughout a
        # group, which then has no say.
        found = torch.stack([self.correlation(group) for group in self.groups])
        return found.nanmean(dim=0)

    def variation(self, group: str) -> dict[str, float | None]:
        """Returns the coefficient of variation of every score in a group.

        Args:
            group (str): Name of the group.

        Returns:
            dict: By score; None where the mean is zero.
        """
        found = variation(self.of_group(self.values, group))
        return {
            name: float(value) if value.isfinite() else None
            for name, value in zip(self.names, found, strict=True)
        }

    def too_close(self) -> list[tuple[str, str, float]]:
        """Returns score, group and variation where it is below 2 %."""
        return [
            (name, group, value)
            for group, size in self.groups.items()
            for name, value in self.variation(group).items()
            if size > 1 and value is not None and value < TOO_CLOSE
        ]

    def same_values(self, group: str) -> dict[str, str]:
        """Which scores are another one in a group, such as for want of norms.

        Args:
            group (str): Name of the group.

        Returns:
            dict[str, str]: Name of the first score with the same values, by
            name of the later one.
        """
        found = {}
        rows = dict(
            zip(self.names, self.of_group(self.values, group), strict=True)
        )
        for name, row in rows.items():
            first = next(n for n in rows if torch.equal(rows[n], row))
            if first != name:
                found[name] = first
        return found

    def overlap(self) -> Tensor:
        """Jaccard index of the kept channels, mean over groups.

        Returns:
            Tensor: Float64, ``[scores, scores]``.
        """
        kept = torch.stack(list(self.kept.values()))
        return overlaps(kept, list(self.groups.values()))

    def disputed(self, group: str) -> dict[int, list[str]]:
        """Returns the channels that only some of the scores keep.

        The control ``random`` is not asked.

        Args:
            group (str): Name of the group.

        Returns:
            dict[int, list[str]]: Names of the scores that keep it, by the
            number of the channel in its group.
        """
        table = {name: self.kept[name] for name in self.voters}
        kept = self.of_group(table, group)
        # [scores, channels]: kept by some, and not by all.
        split = kept.any(dim=0) & ~kept.all(dim=0)
        return {
            channel: [
                name
                for name, keeps in zip(table, kept[:, channel], strict=True)
                if keeps
            ]
            for channel in split.nonzero()[:, 0].tolist()
        }


# What is made in inference mode has no gradient.
@torch.inference_mode(False)
def compare_scores(
    model: nn.Module,
    scores: Sequence[str] | None = None,
    *,
    target: Mapping[str, float] | None = None,
    normalisation: str = 'rank',
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> ScoreComparison:
    """Compares scores on the weights of one network, changing nothing.

    After the Convolution Weight Distribution study (arXiv 2004.11627): how
    alike scores rank, whether they can tell channels apart, and which
    channels of the same exact budget they disagree about.

    Args:
        model (nn.Module): A network that :func:`attach` made prunable, with
            all channels.
        scores (Sequence[str], optional): Names of scores. Defaults to None:
            all that are registered and can be had.
        target (Mapping[str, float], optional): Fractions of the dense costs
            by name. Defaults to None: kept channels are not compared.
        normalisation (str): How scores of different layers become comparable
            where channels are kept. Defaults to ``rank``.
        calibration (Calibration, optional): Batches for scores that ask for
            data. Defaults to None: those cannot be had.
        progress (Callable): Is told what is being done. Defaults to nothing.

    Returns:
        ScoreComparison: Correlations, variation and kept channels.

    Raises:
        PruningError: If a named score is unknown or cannot be had, the
            target cannot be reached, or channels are removed already.

    Examples:
        >>> from mmlapp.core import attach
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
        >>> pruner = attach(net, torch.rand(1, 3, 9, 9))
        >>> found = compare_scores(net, ['l1', 'l2'], target={'flops': 0.5})
        >>> found.correlation('0').shape, int(found.kept['l1'].sum())
        (torch.Size([2, 2]), 4)
    """
    show_again(model)
    pruner = getattr(model, 'pruner', None)
    if not isinstance(pruner, Pruner):
        raise PruningError(
            f'model={type(model).__name__} is not prunable: call '
            'attach(model, example) first'
        )
    check_names(scores)
    # Raises with all names, before anything is computed.
    NORMALISATIONS[normalisation]
    check_all_live(pruner.mask)
    if calibration is not None:
        check_number('batches', calibration.count, least=1, whole=True)
    if target is not None:
        pruner.check_reachable(check_targets(target, pruner.costs))
    found = collect_scores(model, scores, normalisation, calibration, progress)
    if not found.values:
        raise PruningError(
            f'scores={scores}: none can be had ({found.left_out})'
        )
    kept = {}
    if target is not None:
        progress('keeping what scores rank highest')
        for name, order in found.order.items():
            mask = pruner.kept_within(target, order.to(pruner.gate.device))
            kept[name] = mask.cpu()
    return ScoreComparison(
        {group.name: group.size for group in pruner.groups},
        found.values,
        found.left_out,
        kept,
    )
