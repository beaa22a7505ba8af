# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from teachers import build, config_of
from torch import nn

from mmlapp.core import PruningError
from mmlapp.core.distillation import freeze
from mmlapp.datasets import ExpandedDataset
from mmlapp.engine import LabelRefiner
from mmlapp.engine.distillation.image_ids import image_ids
from mmlapp.engine.distillation.label_refiner import REFINED, _numbering
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


class Images(BaseDataset):
    """As many as asked for; they have names and labels alone."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(serialize_data=False)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [
            dict(img_path=f'{i}.png', gt_label=i % 10)
            for i in range(self.count)
        ]


@pytest.fixture(scope='module')
def nets() -> tuple[nn.Module, nn.Module]:
    return build(config_of(False)), freeze(build(config_of(False), 2))


def begin(
    hook: LabelRefiner, nets: tuple[nn.Module, nn.Module], images: int = 64
) -> RefinedLosses:
    """Comes as far as a run with a teacher does before its first step."""
    runner = SimpleNamespace(
        train_dataloader=SimpleNamespace(dataset=Images(images)),
        logger=SimpleNamespace(info=print),
        cfg={},
    )
    return hook.losses_of(runner, *nets)


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


class Places(Hook):
    """Notes where teacher, labels and moves are after the first step."""

    priority = 'HIGHEST'
    seen: tuple[str, ...] = ()

    def after_train_iter(self, runner: Runner, **kwargs: Any) -> None:
        hook = next(h for h in runner.hooks if isinstance(h, LabelRefiner))
        losses = hook.running
        weight = losses.teacher.head.fc.weight
        self.seen = weight.device.type, losses.refinement.logits.device.type


def test_on_a_gpu_labels_stay_on_the_cpu(
    distil: Distil, card: str, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        refined(config)
        config['optim_wrapper'].update(
            type='mmlapp.AmpPruningOptimWrapper', dtype='bfloat16'
        )

    runner, places = distil(change, kwargs=dict(epochs=1)), Places()
    runner.register_hook(places)
    runner.train()
    assert places.seen == (card, 'cpu')
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    labels = saved[REFINED]['state']
    assert labels['known'].all()
    assert labels['logits'].isfinite().all()
    assert labels['logits'].device.type == 'cpu'


def test_settings_reach_the_labels(
    nets: tuple[nn.Module, nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dict(alpha=0.5, temperature=2, label_lr=3)
    losses = begin(LabelRefiner('dense', **settings), nets)
    refine = losses.refinement
    assert {name: getattr(refine, name) for name in settings} == settings
    assert refine.logits.shape == (64, 10)
    # 64 images, 10 classes, 4 bytes.
    assert '64 images of 10 classes, 0.0 MB' in capsys.readouterr().out
    losses.remove()


def loaded(resume: bool, images: Any = None, version: int = 2) -> LabelRefiner:
    state = dict(logits=torch.ones(63, 10), known=torch.ones(63))
    ids = image_ids(images or Images(63))
    hook = LabelRefiner('dense')
    hook.after_load_checkpoint(
        SimpleNamespace(_resume=resume),
        {REFINED: dict(version=version, state=state, images=ids)},
    )
    return hook


def test_other_images_are_no_resumption(
    nets: tuple[nn.Module, nn.Module],
) -> None:
    assert begin(loaded(True), nets, 63).refinement.known.all()
    with pytest.raises(PruningError, match=r'\(63, 10\), .*\(64, 10\)'):
        begin(loaded(True), nets)
    with pytest.raises(PruningError, match='label_refinement of version 9'):
        loaded(True, version=9)


def test_another_order_of_images_is_no_resumption(
    nets: tuple[nn.Module, nn.Module],
) -> None:
    other = Images(63)
    other.full_init()
    other.data_list[5], other.data_list[9] = (
        other.data_list[i] for i in (9, 5)
    )
    hook = loaded(True, other)
    with pytest.raises(PruningError) as error:
        begin(hook, nets, 63)
    assert (
        '2 of 63 images are not those, in that order, whose labels the '
        'checkpoint has; the first is number 5 (5.png, gt_label=5)'
    ) in str(error.value)
    assert 'load_from, without resume' in str(error.value)


def test_new_runs_from_old_weights_begin_anew(
    nets: tuple[nn.Module, nn.Module],
) -> None:
    assert not begin(loaded(False), nets).refinement.known.any()


def mixed(config: dict[str, Any]) -> None:
    """Two images in one, as mmpretrain mixes them."""
    augments = dict(type='Mixup', alpha=1.0)
    config['model']['train_cfg'] = dict(augments=augments)
    config['data_preprocessor']['num_classes'] = 10
    config['custom_hooks'][0]['prune_epochs'] = 1


def test_mixed_images_are_refused(nets: tuple[nn.Module, nn.Module]) -> None:
    student = copy.deepcopy(nets[0])
    student.data_preprocessor.batch_augments = object()
    with pytest.raises(PruningError, match='mixes images'):
        begin(LabelRefiner('dense'), (student, nets[1]))


def test_the_distiller_learns_from_mixed_images(distil: Distil) -> None:
    """Mixup distillation: the teacher sees what the student sees."""
    runner = distil(mixed, kwargs=dict(epochs=1))
    assert runner.model.data_preprocessor.batch_augments is not None
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
    nets: tuple[nn.Module, nn.Module],
) -> None:
    hook = LabelRefiner('dense')
    hook.running = begin(hook, nets)
    with pytest.raises(PruningError, match='does not call its forward in'):
        hook.after_train_iter(SimpleNamespace(), 0)
    hook.running.remove()


def test_a_module_without_classes_is_refused(
    nets: tuple[nn.Module, nn.Module],
) -> None:
    with pytest.raises(PruningError, match=r"module='head\.fc': Linear has"):
        begin(LabelRefiner('dense', module='head.fc'), nets)


def test_images_are_counted_where_they_are_numbered() -> None:
    seven = Images(7)
    twice = ExpandedDataset(ConcatDataset([seven, seven]), [[], []])
    assert len(_numbering(seven)) == 7
    assert len(_numbering(RepeatDataset(seven, 3))) == 7
    assert len(_numbering(SimpleNamespace(dataset=twice))) == 28
    both = ConcatDataset([seven, seven])
    for data in (both, SimpleNamespace(dataset=both), SimpleNamespace()):
        with pytest.raises(PruningError, match='does not number its images'):
            _numbering(data)


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
