# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmlapp.core import PruningError
from mmlapp.engine.deployment.masked import build_model
from mmlapp.engine.export.trained import dense_model, trained_model
from mmlapp.engine.models.plans import narrow_model


@pytest.fixture
def run(classifier_run):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield classifier_run()


def test_a_run_that_was_narrowed(run):
    model = narrow_model(run.model, run.model.pruner.plan())
    run.change(lambda data: data.update(state_dict=model.state_dict()))
    found = trained_model(Config.fromfile(run.config), run.checkpoint)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(found(image), model(image))
    assert not hasattr(found, 'pruner')


def test_masks_are_no_small_network(run):
    with pytest.raises(PruningError, match=r'masks, .*run tools/deploy\.py'):
        trained_model(Config.fromfile(run.config), run.checkpoint)


def dense_config(run):
    cfg = Config.fromfile(run.config)
    cfg.model.type = cfg.model.pop('architecture')
    for name in ('input_shape', 'bypass', 'unit'):
        cfg.model.pop(name)
    return cfg


def test_a_dense_config_for_comparison(run, tmp_path):
    cfg = dense_config(run)
    model = build_model(cfg)
    torch.save(model.state_dict(), tmp_path / 'dense.pth')
    model.eval()
    found = trained_model(cfg, tmp_path / 'dense.pth')
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(found(image), model(image))
    assert not found.training
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    for built in (dense_model(cfg), dense_model(Config.fromfile(run.config))):
        assert {k: v.shape for k, v in built.state_dict().items()} == shapes


def test_a_config_and_a_checkpoint_of_two_models(run):
    with pytest.raises(PruningError, match='is of a pruning run: give the'):
        trained_model(dense_config(run), run.checkpoint)
    model = narrow_model(run.model, run.model.pruner.plan())
    run.change(lambda data: data.update(state_dict=model.state_dict()))
    with pytest.raises(PruningError, match='does not fit the model'):
        trained_model(dense_config(run), run.checkpoint)
