# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import EVERY_METHOD
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from teachers import CLASSES, build, config_of, save
from torch import nn

from mmlapp.core import LogitDistillation, PruningError
from mmlapp.engine import Distiller, LabelRefiner
from mmlapp.engine.deployment.deploy import deploy, load_deployed
from mmlapp.engine.deployment.recipe import dense_config
from mmlapp.engine.distillation.distiller import KEY
from mmlapp.engine.distillation.losses import DistilledLosses

ROOT = Path(__file__).parents[3]
DETECTOR = ROOT / (
    'configs/digits/lapp-flops50_atss_r18-w16_fpn_b16_digits-detection.py'
)
Distil = Callable[..., Runner]
SLOW = pytest.mark.slow


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=False)


def averaged(config: dict[str, Any]) -> None:
    config['custom_hooks'].insert(0, dict(type='EMAHook', momentum=0.1))


def later(config: dict[str, Any]) -> None:
    averaged(config)
    config['custom_hooks'][1].update(begin_iters=2, prune_epochs=1)


def distiller_of(runner: Runner) -> Distiller:
    return next(h for h in runner.hooks if isinstance(h, Distiller))


def begin(runner: Runner) -> Distiller:
    """Comes as far as a run does before its first step."""
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook = distiller_of(runner)
    hook.before_train(runner)
    return hook


class Watch(Hook):
    """Compares the losses of one step with those of a bare loop."""

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.found = None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        if runner.iter:
            return
        running = distiller_of(runner).running
        model = copy.deepcopy(runner.model)
        data = model.data_preprocessor(copy.deepcopy(data_batch), True)
        labels = torch.cat([s.gt_label for s in data['data_samples']])
        with torch.no_grad():
            teacher = running.teacher(data['inputs'])
        self.found = LogitDistillation()(
            model(data['inputs']), teacher, labels
        )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        if not runner.iter:
            total = sum(v for k, v in outputs.items() if 'loss' in k)
            torch.testing.assert_close(total, self.found)
            self.found = None


def test_a_step_has_the_loss_of_a_bare_loop(distil: Distil) -> None:
    runner = distil(kwargs=dict(epochs=1), change=_one_epoch)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    assert watch.found is None
    hub = runner.message_hub
    assert hub.get_scalar('train/loss_distillation_head').current() > 0


def _one_epoch(config: dict[str, Any]) -> None:
    config['custom_hooks'][0]['prune_epochs'] = 1


@pytest.mark.parametrize('epoch', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_as_an_unbroken_one(
    distil: Distil, tmp_path: Path, epoch: int
) -> None:
    """From within the phase and after narrowing, averages included."""
    kwargs = dict(narrow=True, epochs=3)
    distil(later, 'dense', kwargs).train()
    unbroken = read(tmp_path / 'epoch_3.pth')
    assert KEY in unbroken

    def resume(config: dict[str, Any]) -> None:
        later(config)
        config.update(
            load_from=str(tmp_path / f'epoch_{epoch}.pth'), resume=True
        )

    other = tmp_path / 'other'
    distil(resume, 'dense', dict(work_dir=other, **kwargs)).train()
    resumed = read(other / 'epoch_3.pth')
    assert resumed[KEY] == unbroken[KEY]
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        torch.testing.assert_close(
            resumed[key], unbroken[key], rtol=0, atol=0, msg=key
        )


def test_the_model_knows_nothing_of_its_teacher(distil: Distil) -> None:
    """Before, while and after it learns."""
    runner = distil()
    model, saved = runner.model, dict[str, Any]()
    names, hooks = list(model.state_dict()), hooks_of(model)
    numbers = torch.get_rng_state()
    hook = begin(runner)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert list(model.state_dict()) == names
    assert sum(1 for _ in model.modules()) == len(hooks)
    hook.before_save_checkpoint(runner, saved)
    assert set(saved) == {KEY}
    assert set(saved[KEY]) == {'version', 'teacher'}
    hook.after_train(runner)
    assert hooks_of(model) == hooks


def test_the_teacher_is_as_precise_as_the_model(distil: Distil) -> None:
    runner = distil(kwargs=dict(plain=True))
    runner.model.double()
    running = begin(runner).running
    assert running is not None
    types = {p.dtype for p in running.teacher.parameters()}
    assert types == {torch.float64}


def hooks_of(model: nn.Module) -> list[int]:
    return [
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in model.modules()
    ]


def test_another_teacher_is_no_resumption(distil: Distil) -> None:
    """A new run from the same weights may have another one."""
    runner = distil()
    hook, other = distiller_of(runner), {KEY: dict(version=1, teacher='x')}
    hook.after_load_checkpoint(runner, other)
    assert begin(runner).running is not None
    runner._resume = True
    hook.after_load_checkpoint(runner, other)
    with pytest.raises(PruningError, match=r'not those .* load_from'):
        hook.before_train(runner)


def test_a_checkpoint_of_another_release_is_refused() -> None:
    resumed = SimpleNamespace(_resume=True)
    with pytest.raises(PruningError, match='distillation of version 9'):
        Distiller('dense').after_load_checkpoint(
            resumed, {KEY: dict(version=9)}
        )


def test_random_numbers_go_on_as_without_it(distil: Distil) -> None:
    runner = distil(later, 'dense')
    before = torch.get_rng_state()
    hook = begin(runner)
    runner.train_loop._iter = 2
    hook.before_train_iter(runner, 0)
    assert isinstance(hook.running, DistilledLosses)
    assert torch.equal(torch.get_rng_state(), before)


class OwnStep:
    """A model whose training step goes another way."""

    def train_step(self, data: Any, optim_wrapper: Any) -> Any:
        data = self.data_preprocessor(data, True)
        losses, logs = self.parse_losses(self.loss(**data))
        optim_wrapper.update_params(losses)
        return logs


def test_a_step_that_passes_the_forward_by_is_refused(distil: Distil) -> None:
    runner = distil()
    model = runner.model
    model.__class__ = type('Own', (OwnStep, type(model)), {})
    with pytest.raises(PruningError, match=r"of Own does .* mode 'loss'"):
        runner.train()


def test_two_of_them_are_refused() -> None:
    hooks = [Distiller('dense'), LabelRefiner('dense')]
    with pytest.raises(PruningError, match='2 hooks of type Distiller'):
        hooks[0].before_train(SimpleNamespace(hooks=hooks))


@pytest.mark.parametrize('losses', [{}, 'logits', None])
def test_losses_of_another_form_are_refused(losses: Any) -> None:
    with pytest.raises(PruningError, match=r"losses=.*'head': 'logits'"):
        Distiller('dense', losses)


def test_settings_of_a_loss_are_checked_with_the_config() -> None:
    with pytest.raises(PruningError, match=r'alpha=2: expected'):
        Distiller('dense', {'head': dict(type='logits', alpha=2)})


def test_a_teacher_of_other_classes_is_refused(
    distil: Distil, tmp_path: Path
) -> None:
    classes = (*CLASSES[:9], 'ten')
    path = save(tmp_path / 'a.pth', build(config_of(False)), classes)
    with pytest.raises(PruningError, match="class 9 'ten'"):
        begin(distil(teacher=dict(checkpoint=path)))


def test_a_module_whose_width_is_pruned_is_refused(distil: Distil) -> None:
    with pytest.raises(PruningError, match=r"losses='neck'.*narrower.*behind"):
        distil(losses=dict(neck='mse')).train()


@pytest.mark.parametrize(
    'name',
    # Its loss joins those of the teacher and of the task.
    [n if n == 'soft' else pytest.param(n, marks=SLOW) for n in EVERY_METHOD],
)
def test_every_method_learns_from_a_teacher_and_narrows(
    distil: Distil, name: str
) -> None:
    """In one run, which ends with other weights than without."""
    ends = []
    for teacher in (None, 'without'):

        def change(config: dict[str, Any], teacher: Any = teacher) -> None:
            config['model'].update(EVERY_METHOD[name])
            if teacher == 'without':
                config['custom_hooks'].pop()

        runner = distil(change, kwargs=dict(narrow=True))
        runner.train()
        hub = runner.message_hub
        term = 'train/loss_distillation_head' in hub.log_scalars
        assert term == (teacher is None)
        assert not hasattr(runner.model, 'pruner')
        ends.append(runner.model.state_dict())
    assert any(
        ends[0][key].shape != value.shape
        or not torch.equal(ends[0][key], value)
        for key, value in ends[1].items()
        if key.endswith('weight')
    )


@pytest.mark.slow
def test_a_classifier_is_deployed_without_its_teacher(
    distil: Distil, tmp_path: Path
) -> None:
    def small(config: dict[str, Any]) -> None:
        _one_epoch(config)
        config['train_dataloader']['num_workers'] = 0

    runner = distil(small, kwargs=dict(epochs=2, narrow=True))
    runner.train()
    check_deployed(runner, tmp_path / 'epoch_2.pth', tmp_path / 'out')


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of mmdet
def test_a_detector_learns_from_features(
    tmp_path: Path, make_runner: Any
) -> None:
    """Neck features of ATSS, within the phase and narrow, then deployed."""
    cfg = Config.fromfile(DETECTOR)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key)
    loader = cfg.train_dataloader
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    loader.dataset.indices = 8
    dense = dense_config(cfg)
    with DefaultScope.overwrite_default_scope('mmdet'):
        path = save(tmp_path / 'dense.pth', MODELS.build(dense), None)
    cfg.custom_hooks[-1]['prune_epochs'] = 1
    losses = dict(neck=dict(type='channel_wise', weight=2.0))
    cfg.custom_hooks.append(
        dict(
            type='mmlapp.Distiller',
            teacher=dict(checkpoint=path),
            losses=losses,
        )
    )
    cfg.merge_from_dict(
        dict(
            work_dir=str(tmp_path),
            experiment_name=tmp_path.name,
            train_cfg=dict(max_epochs=2),
            log_level='WARNING',
        )
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    logged = runner.message_hub.get_scalar('train/loss_distillation_neck')
    assert logged.current() > 0
    assert KEY in read(tmp_path / 'epoch_2.pth')
    check_deployed(runner, tmp_path / 'epoch_2.pth', tmp_path / 'out')


def check_deployed(runner: Runner, checkpoint: Path, out: Path) -> None:
    deploy(runner.cfg, checkpoint, out, name='small')
    text = (out / 'small.py').read_text()
    assert 'Distiller' not in text
    assert 'dense.pth' not in text
    small = load_deployed(out / 'small.py', out / 'small.pth')
    size = sum(p.numel() for p in small.parameters())
    assert size == sum(p.numel() for p in runner.model.parameters())
