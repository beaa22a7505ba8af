# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmlapp.core import PruningError
from mmlapp.engine.export.network import Network, output_names


class Head(nn.Module):
    def loss_by_feat(self, cls_scores, bbox_preds, batch_gt_instances):
        """What mmdet calls with the outputs of the head."""

    def predict(self):
        """Only those with boxes have it."""

    def forward(self, x):
        return [x, x[..., ::2, ::2]], [x + 1, x[..., ::2, ::2] + 1]


class Detector(nn.Module):
    def __init__(self, stages):
        super().__init__()
        if stages == 2:
            self.rpn_head = Head()
        self.bbox_head = Head()
        self.conv = nn.Conv2d(3, 2, 1)

    def extract_feat(self, x):
        return self.conv(x)

    def forward(self, inputs, samples=None, mode='tensor'):
        assert mode == 'tensor'
        if hasattr(self, 'rpn_head'):
            raise AssertionError('proposals are chosen by rank')
        return self.bbox_head(self.extract_feat(inputs))


NAMES = ['cls_scores_0', 'cls_scores_1', 'bbox_preds_0', 'bbox_preds_1']


@pytest.mark.parametrize(
    ('stages', 'part'),
    [(1, 'the whole network'), (2, 'backbone, neck and rpn_head')],
)
def test_a_detector_up_to_its_first_head(images, stages, part):
    model = Detector(stages)
    network = Network.find(model, images)
    assert (network.part, network.names) == (part, NAMES)
    scores, boxes = network(images)
    torch.testing.assert_close(boxes[0], scores[0] + 1)
    torch.testing.assert_close(scores[0], model.conv(images))
    assert not model.training


class OnlyFeatures(Detector):
    def forward(self, inputs, samples=None, mode='tensor'):
        raise NotImplementedError('mode tensor')


def test_backbone_and_neck_where_no_more_runs(images):
    network = Network.find(OnlyFeatures(1), images)
    assert network.part == 'backbone and neck'
    assert network.names == ['output']
    other = OnlyFeatures(1)
    torch.testing.assert_close(network.of(other)(images), other.conv(images))


def test_what_does_not_run_says_why():
    with pytest.raises(PruningError, match=r'shape \(1, 8, 8\) alone .*whole'):
        Network.find(OnlyFeatures(1), torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    ('output', 'names'),
    [
        (torch.ones(1), ['cls_scores']),
        ((torch.ones(1), [torch.ones(1)]), ['cls_scores', 'bbox_preds']),
        # More than the loss knows, and what is no output of the head.
        ([torch.ones(1)] * 3, ['output_0', 'output_1', 'output_2']),
    ],
)
def test_names_of_outputs(output, names):
    assert output_names(output, Head()) == names
    count = len(names)
    plain = ['output'] if count == 1 else [f'output_{i}' for i in range(count)]
    assert output_names(output, None) == plain


@pytest.mark.parametrize('head', [None, Head()])
def test_outputs_of_several_tasks_have_their_names(head):
    one = torch.ones(1)
    output = {'cat': one, 'dog': {'kind': one, 'size': (one, one)}}
    names = ['cat', 'dog_kind', 'dog_size_0', 'dog_size_1']
    assert output_names(output, head) == names
    # Called like the input of the file, which has its name.
    assert output_names({'input': one, 'b': one}, head) == ['input_1', 'b']
