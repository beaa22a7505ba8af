# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint of a pruning run to the narrowed model, checked."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mmengine
import torch
from mmengine.config import Config
from torch import nn

from mmlapp.core import ChannelPlan, merge_bypasses
from mmlapp.core.bypass.merging import gained_biases
from mmlapp.core.cost.flops import multiply_adds
from mmlapp.core.trace import trace
from mmlapp.version import __version__

from ..checkpoints.reading import Trained, load_checkpoint, read_trained
from ..checkpoints.weights import load_weights
from ..models.arguments import check_shape
from ..models.comparison import Check, Comparison, refuse_differences
from ..models.default_scope import default_scope_of
from ..models.example import ExampleForward
from ..models.inputs import InputShape
from ..models.plans import replace_plan
from ..models.widths import output_widths
from ..output_files import writing
from ..training.report import count_parameters
from .figures import Figure, figures_of, file_sizes
from .folder import (
    SUFFIXES,
    check_folder,
    settle_leftovers,
    staged_folder,
)
from .masked import build_model, masked_model, slim_model
from .probes import find_probes
from .recipe import check_prunable, deployed_config, own_settings


@dataclass(frozen=True)
class Deployment:
    """What was written, and what is known of it.

    Args:
        config (Path): For :func:`mmpretrain.apis.init_model`,
            :func:`mmdet.apis.init_detector` or ``tools/test.py``.
        checkpoint (Path): Its weights.
        plan (Path): The channel plan.
        figures (list[Figure]): FLOPs, parameters, size of the file.
        checks (list[Check]): Inputs on which outputs were compared.
        notes (list[str]): What could not be done, and other remarks.
        widths (str): Of the outputs of the backbone, as the config of what
            reads them says it; empty if there is none.
    """

    config: Path
    checkpoint: Path
    plan: Path
    figures: list[Figure]
    checks: list[Check]
    notes: list[str]
    widths: str


def deploy(
    config: str | Path | Config,
    checkpoint: str | Path,
    out: str | Path,
    name: str | None = None,
    force: bool = False,
    merge: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Deployment:
    """Narrows a trained model and writes it, if it computes the same.

    Either all files are written or none: they are made in a temporary folder
    in ``out`` or, if there is none, beside it, loaded from there as a user
    would, compared with the masked model, and moved.

    Args:
        config (str, Path or Config): Config of the pruning run.
        checkpoint (str or Path): Its checkpoint.
        out (str or Path): Folder to write.
        name (str, optional): Name of the files without suffix. Defaults to
            None: that of the config's file.
        force (bool): Whether to replace a former deployment in ``out``.
            Defaults to False.
        merge (bool): Whether to add all bypasses to the filters of their
            convolutions where both together are one linear map: same
            outputs, fewer FLOPs than asked. Those that budgets do not count,
            of ``merge=True``, always are. Defaults to False.
        progress (Callable): Is told what is being done. Defaults to nothing.

    Returns:
        Deployment: Paths and figures.

    Raises:
        PruningError: If config and checkpoint do not belong together or to a
            finished pruning run, if ``out`` exists, or if the outputs differ.
    """
    cfg = config if isinstance(config, Config) else Config.fromfile(config)
    # A config that was made in Python has no file.
    name = name or Path(cfg.filename or 'deployed').stem
    out = Path(out)
    # First, for what follows takes a while.
    settle_leftovers(out)
    check_folder(out, force)
    check_prunable(cfg)
    progress('reading the checkpoint')
    trained = read_trained(checkpoint)
    with default_scope_of(cfg):
        found = _narrowed(cfg, trained, merge, progress)
        with staged_folder(out, force) as folder:
            progress('writing and loading the narrowed model')
            with writing('out', out):
                paths = _write(folder, name, cfg, found, trained)
            # What was written is compared, not what it was written from.
            slim = load_deployed(*paths[:2])
            progress('running the narrowed model')
            checks = found.comparison.check(slim)
            refuse_differences(checks)
            progress('counting FLOPs')
            figures = figures_of(cfg, found.shape, found.plan, slim)
            figures.append(file_sizes(checkpoint, paths[1]))
            widths = _backbone_widths(slim, found.shape)
    # They were moved there when the staged folder was left.
    written = (out / path.name for path in paths)
    return Deployment(*written, figures, checks, found.notes, widths)


@dataclass(frozen=True)
class _Narrowed:
    """A narrowed model, and what is known of it before it is written."""

    model: nn.Module
    plan: ChannelPlan
    shape: InputShape
    comparison: Comparison
    notes: list[str]


def _narrowed(
    cfg: Config,
    trained: Trained,
    merge: bool,
    progress: Callable[[str], None],
) -> _Narrowed:
    """Runs the masked model of a checkpoint, then makes it small."""
    progress('building the trained model')
    masked = masked_model(cfg, trained)
    plan = masked.pruner.plan()
    shape = check_shape(own_settings(cfg.model)['input_shape'])
    progress('running the trained model')
    probes, notes = find_probes(cfg, masked, shape)
    # Before narrowing, which takes the masks off this very model.
    comparison = Comparison(masked, probes)
    small = slim_model(cfg, trained, masked)
    plan, merged = _merge(small, plan, shape, every=merge)
    notes += merged
    if trained.averaged:
        notes.append('the weights are the averaged ones (EMA)')
    return _Narrowed(small, plan, shape, comparison, notes)


def _backbone_widths(model: nn.Module, shape: InputShape) -> str:
    """How wide what reads the backbone must be, in another model too."""
    if model._modules.get('backbone') is None:
        return ''
    return output_widths(model, 'backbone', ExampleForward(model, shape))


def _merge(
    model: nn.Module, plan: ChannelPlan, shape: InputShape, every: bool
) -> tuple[ChannelPlan, list[str]]:
    """Merges bypasses, all or those that are free; plan and notes follow."""
    free = merge_bypasses(model, free=True)
    counted = merge_bypasses(model) if every else {}
    merged = {**free, **counted}
    if not (every or merged):
        return plan, []
    # Counted anew: branches that were not free the budget had counted.
    calls = trace(model, ExampleForward(model, shape)).calls
    pruned = {
        'flops': sum(map(multiply_adds, calls)),
        'parameters': count_parameters(model),
    }
    biases = gained_biases(model, merged, plan.shapes)
    others = sorted(set(plan.costs) - set(pruned))
    plan = plan.without_branches(merged, pruned, biases)
    replace_plan(model, plan)
    notes = [_merged_note(merged)]
    if None in counted.values():
        notes += [
            f'{name} still counts the bypasses that were merged'
            for name in others
        ]
    return plan, notes


def _merged_note(merged: Mapping[str, str | None]) -> str:
    stay = sorted({reason for reason in merged.values() if reason})
    count = sum(reason is None for reason in merged.values())
    note = f'{count} of {len(merged)} bypasses merged'
    return f'{note}; the others stay: {"; ".join(stay)}' if stay else note


def _write(
    folder: Path,
    name: str,
    cfg: Config,
    found: _Narrowed,
    trained: Trained,
) -> tuple[Path, Path, Path]:
    """Writes config, checkpoint and plan."""
    paths = tuple(folder / f'{name}{suffix}' for suffix in SUFFIXES)
    text = deployed_config(cfg, found.plan).pretty_text
    meta = {
        key: trained.meta[key]
        for key in ('dataset_meta', 'epoch', 'iter')
        if key in trained.meta
    }
    meta.update(
        cfg=text,
        mmengine_version=mmengine.__version__,
        mmlapp_version=__version__,
    )
    # In memory first: torch tells of a full disk in words of its own.
    file = io.BytesIO()
    torch.save({'meta': meta, 'state_dict': found.model.state_dict()}, file)
    paths[0].write_text(text, encoding='utf-8')
    paths[1].write_bytes(file.getvalue())
    found.plan.save(paths[2])
    return paths  # type: ignore[return-value]


def load_deployed(config: str | Path, checkpoint: str | Path) -> nn.Module:
    """Builds a deployed model and loads its weights, every one of them.

    Args:
        config (str or Path): The config that was written.
        checkpoint (str or Path): The checkpoint that was written.

    Returns:
        nn.Module: The model, in evaluation mode.

    Raises:
        PruningError: If the checkpoint is damaged or does not fit.
    """
    cfg = Config.fromfile(config)
    model = build_model(cfg)
    load_weights(
        model,
        load_checkpoint(checkpoint).get('state_dict'),
        f'state_dict of checkpoint={str(checkpoint)!r}',
    )
    return model.eval()
