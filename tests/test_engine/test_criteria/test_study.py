# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmlapp.core import PruningError
from mmlapp.engine.criteria.study import study_config
from mmlapp.engine.deployment.masked import build_model
from mmlapp.engine.models.plans import narrow_model

DOCS = Path(__file__).parents[3] / 'docs' / 'methods.md'
DATA = """
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type='mmlapp.Digits',
        img_size=16,
        indices=16,
        pipeline=[dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
"""


@pytest.fixture
def cfg(classifier_run):
    """Of a prunable ResNet-8; the checkpoint of its run is pruned."""
    run = classifier_run()
    return Config.fromstring(run.config.read_text() + DATA, '.py'), run


@pytest.fixture
def dense(cfg, tmp_path):
    """A checkpoint of the same network that was not pruned."""
    config, _ = cfg
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(config)
    weights = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith('pruner.')
    }
    path = tmp_path / 'dense.pth'
    torch.save({'state_dict': weights}, path)
    return path, model


def test_scores_are_those_of_the_checkpoint(cfg, dense):
    path, model = dense
    study = study_config(cfg[0], path, scores=['l1', 'random'])
    filters = model.get_submodule('backbone.layer1.0.conv1').weight
    expected = filters.detach().abs().sum((1, 2, 3)).double()
    group = 'backbone.layer1.0.conv1'
    found = study.scores.of_group(study.scores.values, group)[0]
    assert torch.allclose(found, expected, rtol=1e-5)
    # Norms have scales of one: nothing is warned of but that.
    assert study.checkpoint == str(path)
    assert not any('no checkpoint' in text for text in study.warnings)
    assert study.scores.names == ['l1', 'random']
    names = [layer.layer for layer in study.layers]
    assert names[:2] == ['backbone.conv1', group]


def test_batches_come_from_the_training_data(cfg, dense):
    data_driven = ['taylor', 'functionality', 'kl_divergence']
    studies = [
        study_config(
            cfg[0],
            dense[0],
            scores=data_driven,
            batches=2,
            target={'flops': 0.9},
            settings={'scope': 'backbone.layer1'},
        )
        for _ in range(2)
    ]
    first, again = (study.scores.values for study in studies)
    for name in data_driven:
        assert first[name].std() > 0
        assert torch.equal(first[name], again[name])
    with pytest.raises(PruningError, match=r'batches=3: an epoch .* has 2'):
        study_config(cfg[0], dense[0], batches=3)


def test_random_weights_are_warned_of_and_the_same_every_time(cfg):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = study_config(cfg[0], scores=['l1', 'bn_scale'])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = study_config(cfg[0], scores=['l1', 'bn_scale'])
    assert first.to_dict() == again.to_dict()
    assert 'no checkpoint' in first.warnings[0]
    (text,) = [t for t in first.warnings if t.startswith('bn_scale')]
    assert 'less than 2% in 4 of 4 groups (0.00%' in text


def test_a_plain_config_is_studied_alike(cfg, dense):
    prunable = study_config(cfg[0], dense[0], scores=['l2'])
    plain = cfg[0].copy()
    for name in ('input_shape', 'bypass', 'unit'):
        plain.model.pop(name)
    plain.model.type = plain.model.pop('architecture')
    # What could be no phase decides nothing here: two ways to shrink at once.
    settings = dict(input_shape=(3, 16, 16), method='soft', shrink=3)
    found = study_config(plain, dense[0], scores=['l2'], settings=settings)
    assert found.to_dict() == prunable.to_dict()


def test_a_checkpoint_that_was_pruned_is_refused(cfg):
    config, run = cfg
    with pytest.raises(PruningError, match=r"epoch_3\.pth' .*was pruned"):
        study_config(config, run.checkpoint)


def test_one_that_was_narrowed_is_refused(cfg):
    config, run = cfg
    slim = narrow_model(run.model, run.model.pruner.plan())
    torch.save({'state_dict': slim.state_dict()}, run.checkpoint)
    with pytest.raises(PruningError, match=r"epoch_3\.pth' .*was pruned"):
        study_config(config, run.checkpoint)


def test_one_of_a_prunable_model_before_its_phase_is_taken(cfg, dense):
    config, run = cfg
    torch.save({'state_dict': dense[1].state_dict()}, run.checkpoint)
    masked = study_config(config, run.checkpoint, scores=['l2'])
    plain = study_config(config, dense[0], scores=['l2'])
    values = [study.scores.values['l2'] for study in (masked, plain)]
    assert torch.equal(*values)


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [
        (dict(checkpoint='nowhere.pth'), r"checkpoint='nowhere\.pth': there"),
        (dict(scores=['l9']), "score='l9' is unknown"),
        (dict(scores=['taylor']), r'score=taylor: .*--batches N'),
        (dict(batches=-1), 'batches=-1: expected a whole number from 0'),
        (dict(target={'flops': 1e-4}), 'target flops=0.0001 lies below'),
    ],
)
def test_what_cannot_be_used(cfg, arguments, text):
    with pytest.raises(PruningError, match=text):
        study_config(cfg[0], **arguments)


def test_batches_without_training_data(cfg):
    cfg[0].pop('train_dataloader')
    with pytest.raises(PruningError, match=r'batches=1: .*no train_dataload'):
        study_config(cfg[0], batches=1)


def test_fields_are_those_of_the_documentation(study):
    data = study.to_dict()
    text = DOCS.read_text('utf-8')
    for entries in (data, data['groups'][0], data['layers'][0]):
        for name in entries:
            assert f'| `{name}` |' in text
    assert data['groups'][0]['disputed'][0].keys() == {'channel', 'kept_by'}
    # No NaN, which is no JSON.
    json.dumps(data, allow_nan=False)
    assert data['global'][0][0] == 1


def test_kept_channels_are_counted(study):
    for group in study.to_dict()['groups']:
        kept = study.scores.of_group(study.scores.kept, group['name'])
        assert list(group['kept'].values()) == kept.sum(1).tolist()
        assert group['same_values'] == {}
