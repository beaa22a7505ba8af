# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import DefaultScope
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.export.pictures import (
    Example,
    example_images,
    preprocessing,
)


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
    images, text, _ = example_images(config(), model, (3, 4, 6), [path])
    assert (images.shape, text) == ((1, 3, 4, 6), '1 pictures')
    # (0 - 1) / 2, (0 - 2) / 2 and (255 - 3) / 2, in RGB; the right is black.
    assert images[0, :, 0, 2].tolist() == [-0.5, -1.0, 126.0]
    assert images[0, :, 3, 3].tolist() == [-0.5, -1.0, -1.5]
    larger = example_images(config(), model, (3, 8, 12), [path]).images
    assert larger.shape == (1, 3, 8, 12)


def written(path, *value):
    """A picture of one colour, in BGR."""
    picture = np.full((10, 20, 3), value, np.uint8)
    mmcv.imwrite(picture, str(path))
    return path


def of_shape(*shape):
    cfg = config()
    cfg.model = dict(type='mmlapp.DeployedModel', plan='a.json')
    cfg.model.input_shape = shape
    return cfg


@pytest.mark.parametrize('own', [True, False])
def test_pictures_of_one_channel(tmp_path, own):
    """Whether the shape is that of the config or given."""
    path = written(tmp_path / 'blue.png', 200, 0, 0)
    cfg = of_shape(1, 4, 6) if own else config()
    shape = None if own else (1, 4, 6)
    model = Model(mean=[1.0], std=[2.0], to_rgb=True)
    images = example_images(cfg, model, shape, [path, path]).images
    assert images.shape == (2, 1, 4, 6)
    # Blue is 0.114 of the luminance, 22 or 23 here.
    assert (22 - 1) / 2 <= images.mean() <= (23 - 1) / 2


@pytest.mark.parametrize('own', [True, False])
def test_numbers_of_channels_that_no_picture_has(tmp_path, own):
    path = written(tmp_path / 'black.png', 0, 0, 0)
    cfg = of_shape(5, 4, 6) if own else config()
    shape = None if own else (5, 4, 6)
    with pytest.raises(PruningError, match=r'--images: .* has 5\. .* without'):
        example_images(cfg, Model(), shape, [path])


def test_grey_pictures_before_a_preprocessor_of_three_channels(
    model, tmp_path
):
    path = written(tmp_path / 'black.png', 0, 0, 0)
    with pytest.raises(
        PruningError, match=r'\[1, 4, 6\]: 1 pict.* 3 channels behind the'
    ):
        example_images(config(), model, (1, 4, 6), [path])


def test_a_picture_that_is_none(model, tmp_path):
    path = tmp_path / 'text.png'
    path.write_text('no picture')
    for name in (path, tmp_path / 'none.png'):
        with pytest.raises(PruningError, match='no picture that can be read'):
            example_images(config(), model, (3, 4, 6), [name])


def with_data(*steps):
    """A config with test data behind some transforms."""
    return config(
        default_scope='mmpretrain',
        test_dataloader=dict(
            batch_size=8,
            dataset=dict(
                type='mmlapp.Digits',
                split='test',
                img_size=16,
                indices=16,
                pipeline=[*steps, dict(type='PackInputs')],
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
    )


@pytest.fixture
def scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def test_test_data_of_the_config(model, scope):
    cfg = with_data()
    images, text, pixels = example_images(cfg, model)
    resized = example_images(cfg, model, (3, 8, 8)).images
    assert pixels
    assert (images.shape, resized.shape) == ((2, 3, 16, 16), (2, 3, 8, 8))
    assert text == '2 images of test_dataloader'
    assert images.dtype == torch.float32


def test_without_data_it_says_so(model):
    images, text, pixels = example_images(config(), model, (3, 8, 8))
    assert not pixels
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


def said(model, cfg):
    return preprocessing(cfg, model, example_images(cfg, model))


def test_what_programs_must_do_with_pixels(model, scope):
    assert said(model, with_data()) == (
        '(pixel - mean) / std, RGB, mean [1.0, 2.0, 3.0], std [2.0, 2.0, 2.0]'
    )
    assert said(Model(), with_data()) == (
        'pixels from 0 to 255, channels as the test pipeline has them'
    )


class AsFloats(BaseTransform):
    """Whole numbers in float32, as of ``to_float32=True``."""

    def transform(self, results):
        results['img'] = results['img'].astype(np.float32)
        return results


def test_pixels_as_floats(scope):
    cfg = with_data(dict(type=AsFloats))
    assert said(Model(), cfg).startswith('pixels from 0 to 255, ')


VALUES = 'values as the test pipeline gives them, channels as the test pipe'
NORMALISED = (
    dict(type='NumpyToPIL', to_rgb=True),
    dict(type='torchvision/ToTensor'),
)


def test_a_pipeline_that_normalises_itself(model, scope):
    """Its values are no pixels, and it may have turned the channels."""
    normalise = dict(
        type='torchvision/Normalize', mean=[0.5] * 3, std=[0.2] * 3
    )
    for steps in ([*NORMALISED, normalise], NORMALISED):
        assert said(Model(), with_data(*steps)).startswith(VALUES)
        assert said(model, with_data(*steps)).startswith(
            '(value - mean) / std of the values that the test pipeline gives, '
        )


def test_what_no_data_was_at_hand_for_is_not_known(model, tmp_path):
    assert said(Model(), config()).startswith(VALUES)
    assert said(model, config()).startswith('(value - mean) / std of the ')
    path = written(tmp_path / 'black.png', 0, 0, 0)
    example = example_images(config(), model, files=[path])
    assert preprocessing(config(), Model(), example).startswith(VALUES)


@pytest.mark.parametrize('order', ['RGB', 'BGR'])
@pytest.mark.parametrize('outer', [True, False])
def test_the_order_that_a_network_reads(order, outer):
    """MMEngine's preprocessors keep no attribute that tells."""
    flip = {'RGB': 'bgr_to_rgb', 'BGR': 'rgb_to_bgr'}[order]
    settings = {'mean': [1.0] * 3, 'std': [1 / 255] * 3, flip: True}
    model = nn.Module()
    model.data_preprocessor = ImgDataPreprocessor(**settings)
    cfg = config()
    (cfg if outer else cfg.model).data_preprocessor = settings
    example = Example(torch.rand(1, 3, 4, 4), '', True)
    # And digits that matter, of numbers far below 1.
    assert preprocessing(cfg, model, example) == (
        f'(pixel - mean) / std, {order}, mean [1.0, 1.0, 1.0], '
        'std [0.00392157, 0.00392157, 0.00392157]'
    )


def test_one_channel_has_no_order():
    model = Model(mean=[80.0], std=[58.395], to_rgb=True)
    example = Example(torch.rand(1, 1, 4, 4), '', True)
    assert preprocessing(config(), model, example) == (
        '(pixel - mean) / std, mean [80.0], std [58.395]'
    )
