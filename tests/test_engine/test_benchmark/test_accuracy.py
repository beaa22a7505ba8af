# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmlapp.core import PruningError
from mmlapp.engine.benchmark.accuracy import Judge
from mmlapp.engine.deployment.masked import build_model
from mmlapp.engine.deployment.real_data import own_loader
from mmlapp.engine.export.network import Network
from mmlapp.engine.latency.backends import network_run
from mmlapp.engine.latency.setting import Setting


@pytest.fixture
def cfg(classifier_run):
    return Config.fromfile(classifier_run().config)


@pytest.fixture
def network(cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(cfg).eval()
    return Network.find(model, torch.rand(1, 3, 16, 16))


def top1(cfg, model):
    """Percent of the test images whose label the logits name."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = own_loader(cfg, 'test_dataloader')
    right = []
    for batch in loader:
        data = model.data_preprocessor(batch, False)
        with torch.no_grad():
            found = model(data['inputs']).argmax(1)
        labels = [int(s.gt_label) for s in data['data_samples']]
        right += (found == torch.tensor(labels)).tolist()
    assert len(right) == 16
    return 100 * sum(right) / len(right)


def test_top1_is_that_of_the_logits_on_every_backend(cfg, network):
    """Five images at once there, sixteen of them, in batches of eight."""
    with torch.no_grad():
        network.model.head.fc.bias.copy_(torch.linspace(-1, 1, 10))
    judge = Judge(cfg, ['slim'])
    images = torch.rand(5, 3, 16, 16)
    run = network_run(network, images, Setting())
    found = [
        judge('slim', network, backend, run, images)
        for backend in ('torch', 'onnxruntime')
    ]
    assert found[0] == found[1]
    assert found[0]['accuracy/top1'] == pytest.approx(top1(cfg, network.model))
    assert judge.notes == [
        'accuracy: accuracy/top1 of 16 images of test_dataloader'
    ]
    assert judge('dense', network, 'torch', run, images) is None


def test_what_cannot_be_judged_there_is_told(cfg, network):
    judge = Judge(cfg, ['slim'])
    images = torch.rand(2, 3, 24, 24)
    run = network_run(network, images, Setting())
    assert judge('slim', network, 'onnxruntime', run, images) is None
    (note,) = judge.notes
    assert note.startswith('no accuracy of slim on onnxruntime: it runs on im')


def without_data(cfg):
    cfg.test_dataloader.dataset = dict(
        type='CIFAR10', data_root='nowhere', download=True
    )


def without_loader(cfg):
    cfg._cfg_dict.pop('test_dataloader')


def without_evaluator(cfg):
    cfg._cfg_dict.pop('test_evaluator')


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (without_data, r'test_dataloader cannot be read \(.*Put the data'),
        (without_loader, 'has no test_dataloader with a test_evaluator'),
        (without_evaluator, 'has no test_dataloader with a test_evaluator'),
    ],
)
def test_a_config_that_evaluates_nothing(cfg, change, text):
    change(cfg)
    with pytest.raises(PruningError, match=f'accuracy: .*{text}'):
        Judge(cfg, ['slim'])


def test_random_weights_have_none(cfg):
    with pytest.raises(PruningError, match=r'weights have none\. .*--dens'):
        Judge(cfg, [])
