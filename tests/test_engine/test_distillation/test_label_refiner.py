# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.runner import Runner

from mmlapp.core import PruningError
from mmlapp.datasets import Digits, ExpandedDataset
from mmlapp.engine import LabelRefiner
from mmlapp.engine.distillation.label_refiner import REFINED, _count_images
from mmlapp.engine.distillation.refined_losses import RefinedLosses

Distil = Callable[..., Runner]


def refined(
    config: dict[str, Any], load_from: Path | None = None, **settings: Any
) -> None:
    """A ``LabelRefiner`` in the place of the ``Distiller``."""
    config['custom_hooks'][-1].update(type='mmlapp.LabelRefiner', **settings)
    config['custom_hooks'][0]['prune_epochs'] = 1
    if load_from is not None:
        config.update(load_from=str(load_from), resume=True)


def begin(runner: Runner) -> LabelRefiner:
    """Comes as far as a run does before its first step."""
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook = next(h for h in runner.hooks if isinstance(h, LabelRefiner))
    hook.before_train(runner)
    return hook


def test_labels_survive_resumption_bit_for_bit(
    distil: Distil, tmp_path: Path
) -> None:
    kwargs = dict(narrow=True, epochs=3)
    distil(refined, kwargs=kwargs).train()
    unbroken = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    begun = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    labels = unbroken[REFINED]['state']
    assert labels['logits'].shape == (64, 10)
    assert labels['known'].all()
    assert (labels['logits'] != begun[REFINED]['state']['logits']).any()
    other = tmp_path / 'other'
    distil(
        lambda c: refined(c, tmp_path / 'epoch_1.pth'),
        kwargs=dict(work_dir=other, **kwargs),
    ).train()
    resumed = torch.load(other / 'epoch_3.pth', weights_only=False)
    for key in (REFINED, 'state_dict'):
        torch.testing.assert_close(
            resumed[key], unbroken[key], rtol=0, atol=0, msg=key
        )


def test_settings_reach_the_labels(distil: Distil) -> None:
    settings = dict(alpha=0.5, temperature=2, label_lr=3)
    hook = begin(distil(lambda c: refined(c, **settings)))
    assert isinstance(hook.running, RefinedLosses)
    refine = hook.running.refinement
    assert {name: getattr(refine, name) for name in settings} == settings


def test_other_images_are_no_resumption(distil: Distil) -> None:
    def resume(state: dict[str, Any]) -> None:
        runner = distil(refined)
        runner._resume = True
        hook = next(h for h in runner.hooks if isinstance(h, LabelRefiner))
        hook.after_load_checkpoint(runner, {REFINED: state})
        begin(runner)

    other = dict(logits=torch.ones(63, 10), known=torch.ones(63))
    with pytest.raises(PruningError, match=r'\(63, 10\), .*\(64, 10\)'):
        resume(dict(version=1, state=other))
    with pytest.raises(PruningError, match='label_refinement of version 9'):
        resume(dict(version=9, state=other))


def test_new_runs_from_old_weights_begin_anew(distil: Distil) -> None:
    runner = distil(refined)
    hook = next(h for h in runner.hooks if isinstance(h, LabelRefiner))
    state = dict(logits=torch.ones(63, 10), known=torch.ones(63))
    hook.after_load_checkpoint(runner, {REFINED: dict(version=1, state=state)})
    assert not begin(runner).running.refinement.known.any()


def mixed(config: dict[str, Any]) -> None:
    """Two images in one, as mmpretrain mixes them."""
    augments = dict(type='Mixup', alpha=1.0)
    config['model']['train_cfg'] = dict(augments=augments)
    config['data_preprocessor']['num_classes'] = 10
    config['custom_hooks'][0]['prune_epochs'] = 1


def test_mixed_images_are_refused(distil: Distil) -> None:
    def change(config: dict[str, Any]) -> None:
        refined(config)
        mixed(config)

    with pytest.raises(PruningError, match='mixes images'):
        begin(distil(change))


def test_the_distiller_learns_from_mixed_images(distil: Distil) -> None:
    """Mixup distillation: the teacher sees what the student sees."""
    runner = distil(mixed, kwargs=dict(epochs=1))
    seen: dict[str, Any] = {}
    runner.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    runner.train()
    targets = torch.stack([s.gt_score for s in seen['data_samples']])
    assert ((targets > 0) & (targets < 1)).any()
    hub = runner.message_hub
    assert hub.get_scalar('train/loss_distillation_head').current() > 0


def test_a_step_that_passes_the_forward_by_is_refused(
    distil: Distil,
) -> None:
    runner = distil(refined)
    hook = begin(runner)
    with pytest.raises(PruningError, match='does not call its forward in'):
        hook.after_train_iter(runner, 0)


def test_a_module_without_classes_is_refused(distil: Distil) -> None:
    def other(config: dict[str, Any]) -> None:
        refined(config, module='head.fc')

    with pytest.raises(PruningError, match=r"module='head\.fc': Linear has"):
        begin(distil(other))


def test_images_are_counted_where_they_are_numbered() -> None:
    digits = Digits(indices=7)
    twice = ExpandedDataset(ConcatDataset([digits, digits]), [[], []])
    assert _count_images(digits) == 7
    assert _count_images(RepeatDataset(digits, 3)) == 7
    assert _count_images(SimpleNamespace(dataset=twice)) == 28
    both = ConcatDataset([digits, digits])
    for data in (both, SimpleNamespace(dataset=both), SimpleNamespace()):
        with pytest.raises(PruningError, match='does not number its images'):
            _count_images(data)


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        (dict(alpha=0), 'alpha=0: expected'),
        (dict(temperature=-1), 'temperature=-1: expected'),
        (dict(label_lr=-1), 'label_lr=-1: expected'),
        (dict(module=3), 'module=3: expected'),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(PruningError, match=text):
        LabelRefiner('dense', **settings)
