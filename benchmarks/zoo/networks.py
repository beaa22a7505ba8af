# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which networks are measured: one config per kind of block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmlapp.core import PruningError

# What a network is built of tells which share should be prunable.
PLAIN, OTHER = 0.95, 0.80
# Size, scope and bar of a line that names the config alone.
DEFAULTS = '128', '*', str(PLAIN)


@dataclass(frozen=True)
class Entry:
    """One network.

    Args:
        config (str): A path, ``package::path`` of an installed package, or
            the name of a network as ``timm::name``, ``torchvision::name``.
        shape (tuple[int, int, int]): Of the image. Defaults to 128 pixels,
            at which a network needs a third of the time that 224 take.
        scope (tuple[str, ...]): Patterns of what may be pruned. Defaults to
            ``*``.
        bar (float): Share of the convolutions' FLOPs that should be
            prunable. Defaults to 0.95, for convolution and BatchNorm.
    """

    config: str
    shape: tuple[int, int, int] = (3, 128, 128)
    scope: tuple[str, ...] = ('*',)
    bar: float = PLAIN

    @property
    def name(self) -> str:
        """Short name: the file without folder and suffix."""
        package, found, path = self.config.rpartition('::')
        stem = Path(path).name.removesuffix('.py')
        return f'{package}::{stem}' if found else stem


def read_list(text: str) -> list[Entry]:
    """Reads a list of networks: a config a line, and what goes with it.

    A line is ``CONFIG [SIZE [SCOPE [BAR]]]``, where ``SIZE`` is the edge of
    the image or ``CHANNELSxHEIGHTxWIDTH`` and ``SCOPE`` patterns with commas
    between them; ``#`` starts a comment.

    Args:
        text (str): The lines.

    Raises:
        PruningError: If a line is malformed, or there is none.

    Examples:
        >>> read_list('mmpretrain::lenet/lenet5_mnist 1x32x32')[0].shape
        (1, 32, 32)
    """
    found = list(_entries(text.splitlines()))
    if not found:
        raise PruningError('the list names no config')
    return found


def _entries(lines: list[str]) -> Iterator[Entry]:
    for number, line in enumerate(lines, 1):
        words = line.partition('#')[0].split()
        if not words:
            continue
        config, *rest = words
        if len(rest) > len(DEFAULTS):
            raise PruningError(
                f'line {number}, {line!r}: expected CONFIG [SIZE [SCOPE '
                '[BAR]]]'
            )
        size, scope, bar = (*rest, *DEFAULTS[len(rest) :])
        patterns = tuple(scope.split(','))
        yield Entry(config, _shape(size, number), patterns, float(bar))


def _shape(text: str, number: int) -> tuple[int, int, int]:
    try:
        parts = [int(part) for part in text.split('x')]
        if len(parts) == 1:
            parts = [3, parts[0], parts[0]]
        channels, height, width = parts
    except ValueError as error:
        raise PruningError(
            f'line {number}, size {text!r}: expected a number of pixels or '
            'CHANNELSxHEIGHTxWIDTH'
        ) from error
    return channels, height, width


def _listed(package: str, names: str, *settings: str) -> str:
    """Lines for configs of one package with the same settings."""
    words = ' '.join(settings)
    return '\n'.join(f'{package}::{n} {words}' for n in names.split())


CLASSIFIERS = """
resnet/resnet18_8xb32_in1k
resnet/resnet50_8xb32_in1k
resnet/resnetv1c50_8xb32_in1k
resnet/resnetv1d50_8xb32_in1k
wrn/wide-resnet50_8xb32_in1k
resnext/resnext50-32x4d_8xb32_in1k
seresnet/seresnet50_8xb32_in1k
seresnet/seresnext50-32x4d_8xb32_in1k
res2net/res2net50-w14-s8_8xb32_in1k
resnest/resnest50_32xb64_in1k
regnet/regnetx-400mf_8xb128_in1k
densenet/densenet121_4xb256_in1k
hrnet/hrnet-w18_4xb32_in1k
cspnet/cspdarknet50_8xb32_in1k
cspnet/cspresnet50_8xb32_in1k
cspnet/cspresnext50_8xb32_in1k
mobilenet_v2/mobilenet-v2_8xb32_in1k
mobilenet_v3/mobilenet-v3-small_8xb128_in1k
mobilenet_v3/mobilenet-v3-large_8xb128_in1k
shufflenet_v1/shufflenet-v1-1x_16xb64_in1k
shufflenet_v2/shufflenet-v2-1x_16xb64_in1k
efficientnet/efficientnet-b0_8xb32_in1k
efficientnet/efficientnet-em_8xb32-01norm_in1k
efficientnet_v2/efficientnetv2-b0_8xb32_in1k
efficientnet_v2/efficientnetv2-s_8xb32_in1k-384px
mobileone/mobileone-s0_8xb32_in1k
mobileone/mobileone-s4_8xb32_in1k
repvgg/repvgg-A0_8xb32_in1k
repvgg/repvgg-A0_deploy_in1k
repvgg/repvgg-B1g2_8xb32_in1k
repvgg/repvgg-D2se_8xb32_in1k
replknet/replknet-31B_32xb64_in1k
arcface/resnet50-arcface_8xb32_inshop
csra/resnet101-csra_1xb16_voc07-448px
"""
# Made for images of one size.
FIXED = """
vgg/vgg11_8xb32_in1k
vgg/vgg11bn_8xb32_in1k
"""
HYBRIDS = """
convmixer/convmixer-768-32_10xb64_in1k
convnext/convnext-tiny_32xb128_in1k
convnext_v2/convnext-v2-atto_32xb32_in1k
hornet/hornet-tiny_8xb128_in1k
hornet/hornet-tiny-gf_8xb128_in1k
poolformer/poolformer-s12_32xb128_in1k
riformer/riformer-s12_8xb128_in1k
van/van-tiny_8xb128_in1k
edgenext/edgenext-xxsmall_8xb256_in1k
mobilevit/mobilevit-xxsmall_8xb128_in1k
conformer/conformer-tiny-p16_8xb128_in1k
"""
FIXED_HYBRIDS = """
efficientformer/efficientformer-l1_8xb128_in1k
levit/levit-128s_8xb256_in1k
tinyvit/tinyvit-5m_8xb256_in1k
repmlp/repmlp-base_8xb64_in1k
repmlp/repmlp-base_delopy_8xb64_in1k
vig/vig-tiny_8xb128_in1k
vig/pvig-tiny_8xb128_in1k
"""
# Most of what they compute is no convolution: heads of attention and MLPs.
TRANSFORMERS = """
vision_transformer/vit-base-p32_64xb64_in1k
deit/deit-tiny_4xb256_in1k
swin_transformer/swin-tiny_16xb64_in1k
twins/twins-svt-small_8xb128_in1k
davit/davit-tiny_4xb256_in1k
"""
BACKBONES = """
retinanet/retinanet_r50_fpn_1x_coco
retinanet/retinanet_r50-caffe_fpn_1x_coco
faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco
faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco
dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco
dcn/faster-rcnn_x101-32x4d-dconv-c3-c5_fpn_1x_coco
dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco
dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco
centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco
gcnet/mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco
empirical_attention/faster-rcnn_r50-attn1111_fpn_1x_coco
retinanet/retinanet_x101-32x4d_fpn_1x_coco
res2net/faster-rcnn_res2net-101_fpn_2x_coco
vfnet/vfnet_res2net101-mdconv-c3-c5_fpn_ms-2x_coco
resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco
regnet/faster-rcnn_regnetx-400MF_fpn_ms-3x_coco
hrnet/faster-rcnn_hrnetv2p-w18-1x_coco
cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco
yolo/yolov3_d53_8xb8-320-273e_coco
yolo/yolov3_mobilenetv2_8xb24-320-300e_coco
yolox/yolox_s_8xb8-300e_coco
yolox/yolox_nano_8xb8-300e_coco
rtmdet/rtmdet_tiny_8xb32-300e_coco
efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco
tridentnet/tridentnet_r50-caffe_1x_coco
detectors/cascade-rcnn_r50-sac_1x_coco
ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco
"""
# Their second backbone is in the neck, and tied to the first.
RECURSIVE = """
detectors/cascade-rcnn_r50-rfp_1x_coco
detectors/detectors_cascade-rcnn_r50_1x_coco
"""
OTHER_BACKBONES = """
gn/mask-rcnn_r50_fpn_gn-all_2x_coco
gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco
convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco
pvt/retinanet_pvt-t_fpn_1x_coco
pvt/retinanet_pvtv2-b0_fpn_1x_coco
swin/retinanet_swin-t-p4-w7_fpn_1x_coco
"""
NETWORKS: list[Entry] = read_list(
    '\n'.join(
        [
            _listed('mmpretrain', 'lenet/lenet5_mnist', '1x32x32'),
            _listed('mmpretrain', 'resnet/resnet18_8xb16_cifar10', '32'),
            _listed('mmpretrain', FIXED, '224'),
            _listed('mmpretrain', CLASSIFIERS),
            _listed(
                'mmpretrain', 'inception_v3/inception-v3_8xb32_in1k', '299'
            ),
            _listed('mmpretrain', HYBRIDS, '128', '*', str(OTHER)),
            _listed('mmpretrain', FIXED_HYBRIDS, '224', '*', str(OTHER)),
            _listed('mmpretrain', TRANSFORMERS, '224', '*', str(OTHER)),
            _listed('mmdet', BACKBONES, '128', 'backbone'),
            _listed('mmdet', RECURSIVE, '128', 'backbone,neck'),
            _listed('mmdet', 'ssd/ssd300_coco', '300', 'backbone'),
            _listed('mmdet', OTHER_BACKBONES, '128', 'backbone', str(OTHER)),
        ]
    )
)
