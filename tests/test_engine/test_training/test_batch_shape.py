# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The size at which costs are counted, against that of the data."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor

from mmlapp.engine.training.batch_shape import (
    compare_shapes,
    image_shape,
    similar,
)


class Noisy(BaseDataPreprocessor):
    """Changes its batch, and draws random numbers."""

    def forward(self, data: Any, training: bool = False) -> Any:
        assert not training
        data['inputs'] = data['inputs'] + torch.rand(1)
        return data


def warnings_of(
    counted: Any, batch: Any, preprocessor: Any = None
) -> list[str]:
    said: list[str] = []
    model = torch.nn.Module()
    model.data_preprocessor = preprocessor or BaseDataPreprocessor()
    runner: Any = SimpleNamespace(
        model=model, logger=SimpleNamespace(warning=said.append)
    )
    compare_shapes(runner, counted, batch)
    return said


def test_another_size_is_named_with_its_ratio() -> None:
    batch = dict(inputs=torch.zeros(2, 3, 64, 64))
    (text,) = warnings_of((3, 224, 224), batch)
    assert 'input_shape=(3, 224, 224), but images' in text
    assert 'at 12.2 times their area' in text  # (224 / 64)^2 = 12.25
    assert text.endswith('Set input_shape=(3, 64, 64) in mmlapp.PrunableModel')


@pytest.mark.parametrize('size', [(3, 8, 8), (3, 8, 4), (3, 16, 8)])
def test_sizes_within_the_factor_pass(size: tuple[int, int, int]) -> None:
    batch = dict(inputs=torch.zeros(2, *size))
    assert warnings_of((3, 8, 8), batch) == []


@pytest.mark.parametrize('size', [(1, 8, 8), (3, 8, 3), (3, 17, 8)])
def test_others_do_not(size: tuple[int, int, int]) -> None:
    assert not similar((3, 8, 8), size)
    assert len(warnings_of((3, 8, 8), (torch.zeros(2, *size), None))) == 1


def test_the_preprocessor_decides() -> None:
    """Here it pads images of several sizes to one batch."""
    images = [torch.zeros(3, 5, 9), torch.zeros(3, 7, 4)]
    padded = ImgDataPreprocessor(pad_size_divisor=8)
    assert warnings_of((3, 8, 16), dict(inputs=images), padded) == []
    (text,) = warnings_of((3, 32, 32), dict(inputs=images), padded)
    assert '(3, 8, 16) after the data preprocessor' in text


def test_batch_and_random_numbers_stay() -> None:
    batch = dict(inputs=torch.zeros(2, 3, 8, 8))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert warnings_of((3, 8, 8), batch, Noisy()) == []
    assert torch.equal(torch.rand(4), expected)
    assert not batch['inputs'].any()


@pytest.mark.parametrize(
    ('inputs', 'shape'),
    [
        (torch.zeros(2, 3, 8, 4), (3, 8, 4)),
        ([torch.zeros(3, 8, 4), torch.zeros(3, 6, 6)], (3, 8, 6)),
        ([torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)], (3, 8, 8)),
        (torch.zeros(3, 8, 8), None),
        (torch.zeros(2, 3, 4, 8, 8), None),
        ({'points': torch.zeros(2, 3)}, None),
        ([], None),
        (['text'], None),
        (None, None),
    ],
)
def test_shapes_of_images(inputs: Any, shape: Any) -> None:
    assert image_shape(inputs) == shape


def test_without_a_shape_or_a_batch_nothing_is_compared() -> None:
    assert warnings_of(None, dict(inputs=torch.zeros(2, 3, 8, 8))) == []
    assert warnings_of((3, 8, 8), None) == []
