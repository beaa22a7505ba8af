# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

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


CLASSES = 'round', 'square'


def write_photos(folder):
    """Three images of noise, and the texts that COCO wants of them."""
    images = []
    for number in range(3):
        # Dark ones, of which the head's scores are not all one.
        noise = np.random.default_rng(number).integers(0, 4, (64, 64, 3))
        name = f'{number}.png'
        Image.fromarray(noise.astype(np.uint8)).save(folder / name)
        images.append(dict(id=number, file_name=name, width=64, height=64))
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
    return dict(images=images, categories=categories, annotations=[])


def write_boxes(path, text, found):
    """Takes some of the boxes that a detector found for the true ones."""
    for sample in found:
        boxes = sample.pred_instances[::2]
        for box, label in zip(boxes.bboxes, boxes.labels, strict=True):
            x, y, right, low = map(float, box)
            width, height = right - x, low - y
            text['annotations'].append(
                dict(
                    id=len(text['annotations']) + 1,
                    image_id=sample.img_id,
                    category_id=int(label),
                    bbox=[x, y, width, height],
                    area=width * height,
                    iscrowd=0,
                )
            )
    path.write_text(json.dumps(text))


def read_photos(cfg, folder):
    """Lets a config evaluate boxes on these images."""
    path = str(folder / 'truth.json')
    cfg.test_dataloader.dataset = dict(
        type='CocoDataset',
        ann_file=path,
        data_prefix=dict(img=str(folder)),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs'),
        ],
    )
    cfg.test_dataloader.batch_size = 2
    cfg.test_evaluator = dict(type='CocoMetric', ann_file=path, metric='bbox')


def by_mmengine(cfg, model, folder):
    """What the Runner's loop measures, as tools/test.py calls it."""
    runner = Runner(
        model,
        work_dir=str(folder),
        test_dataloader=cfg.test_dataloader,
        test_evaluator=cfg.test_evaluator,
        test_cfg=dict(),
        experiment_name=folder.name,
        default_scope='mmdet',
        log_level='ERROR',
    )
    return runner.test()


@pytest.mark.slow  # for what it imports
def test_average_precision_is_that_of_a_test_on_every_backend(
    detector_run, tmp_path
):
    """Of random weights, where some of the boxes that they find are true."""
    run = detector_run()
    cfg, model = Config.fromfile(run.config), run.model.eval()
    # Boxes near their anchors, which have an area.
    model.bbox_head.retina_reg.register_forward_hook(
        lambda module, inputs, output: 0.01 * output
    )
    text, truth = write_photos(tmp_path), tmp_path / 'truth.json'
    truth.write_text(json.dumps(text))
    read_photos(cfg, tmp_path)
    with DefaultScope.overwrite_default_scope('mmdet'), torch.no_grad():
        found = [
            sample
            for batch in own_loader(cfg, 'test_dataloader')
            for sample in model.test_step(batch)
        ]
    write_boxes(truth, text, found)
    expected = by_mmengine(cfg, model, tmp_path)
    assert 0.02 < expected['coco/bbox_mAP'] < 1
    judge, images = Judge(cfg, ['slim']), torch.rand(2, 3, 64, 64)
    network = Network.find(model, images)
    same = network_run(network, images, Setting())
    for backend in ('torch', 'onnxruntime'):
        measured = judge('slim', network, backend, same, images)
        assert measured == pytest.approx(expected)
    assert judge.notes == [
        'accuracy: coco/bbox_mAP of 3 images of test_dataloader'
    ]


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


def with_a_number(cfg):
    cfg.test_evaluator = 3


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (with_a_number, 'has test_evaluator=3; expected a dictionary'),
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
