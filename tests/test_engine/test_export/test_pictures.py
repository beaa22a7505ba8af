# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.export.pictures import example_images, preprocessing


class Model(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        from mmpretrain.models.utils import ClsDataPreprocessor

        self.data_preprocessor = ClsDataPreprocessor(**settings)


@pytest.fixture
def model():
    return Model(mean=[1.0, 2.0, 3.0], std=[2.0] * 3, to_rgb=True)


def config(**settings):
    return Config(dict(model=dict(type='Any'), **settings))


def test_pictures_of_the_user(model, tmp_path):
    path = tmp_path / 'blue.png'
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, :3, 0] = 255  # mmcv writes and reads BGR
    mmcv.imwrite(picture, str(path))
    images, text = example_images(config(), model, (3, 4, 6), [path])
    assert (images.shape, text) == ((1, 3, 4, 6), '1 pictures')
    # (0 - 1) / 2, (0 - 2) / 2 and (255 - 3) / 2, in RGB; the right is black.
    assert images[0, :, 0, 2].tolist() == [-0.5, -1.0, 126.0]
    assert images[0, :, 3, 3].tolist() == [-0.5, -1.0, -1.5]
    larger, _ = example_images(config(), model, (3, 8, 12), [path])
    assert larger.shape == (1, 3, 8, 12)


def test_channels_that_the_pictures_do_not_have(model, tmp_path):
    path = tmp_path / 'black.png'
    mmcv.imwrite(np.zeros((10, 20, 3), np.uint8), str(path))
    with pytest.raises(PruningError, match=r'input_shape=\[1, 4, 6\]: 1 pict'):
        example_images(config(), model, (1, 4, 6), [path])


def test_a_picture_that_is_none(model, tmp_path):
    path = tmp_path / 'text.png'
    path.write_text('no picture')
    for name in (path, tmp_path / 'none.png'):
        with pytest.raises(PruningError, match='no picture that can be read'):
            example_images(config(), model, (3, 4, 6), [name])


def test_test_data_of_the_config(model):
    cfg = config(
        default_scope='mmpretrain',
        test_dataloader=dict(
            batch_size=8,
            dataset=dict(
                type='mmlapp.Digits',
                split='test',
                img_size=16,
                indices=16,
                pipeline=[dict(type='PackInputs')],
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        images, text = example_images(cfg, model)
        resized, _ = example_images(cfg, model, (3, 8, 8))
    assert (images.shape, resized.shape) == ((2, 3, 16, 16), (2, 3, 8, 8))
    assert text == '2 images of test_dataloader'
    assert images.dtype == torch.float32


def test_without_data_it_says_so(model):
    images, text = example_images(config(), model, (3, 8, 8))
    assert images.shape == (2, 3, 8, 8)
    assert text == 'random images (the config has no test_dataloader)'


def test_without_data_images_are_those_of_the_budget(model):
    """A deployed config says what its run counted at."""
    cfg = config()
    assert example_images(cfg, model)[0].shape == (2, 3, 224, 224)
    cfg.model = dict(type='mmlapp.DeployedModel', plan='a.json')
    cfg.model.input_shape = (3, 8, 12)
    assert example_images(cfg, model)[0].shape == (2, 3, 8, 12)
    cfg.model.input_shape = dict(rgb=(3, 8, 8), depth=(1, 8, 8))
    with pytest.raises(
        PruningError, match=r'input_shape=rgb 3x8x8, depth.*--'
    ):
        example_images(cfg, model)


def test_what_programs_must_do_with_pixels(model):
    assert preprocessing(model) == (
        '(pixel - mean) / std, RGB, mean [1.0, 2.0, 3.0], std [2.0, 2.0, 2.0]'
    )
    assert preprocessing(Model()).startswith('pixels from 0 to 255, channels')
