# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How much of networks with attention can be pruned, of all FLOPs.

    pip install timm  # for its networks
    python benchmarks/attention.py
    python benchmarks/attention.py 'ViT (timm)' 'PVT (mmdet)'

Tiny variants at 64 pixels, with random weights: they decide nothing. Those of
mmpretrain and mmdet are backbones alone, whose outputs must stay.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn
from zoo.share import prunable_share

from mmlapp.core import analyse

EDGE = 64
# All that is counted.
OPERATORS = 'convolution', 'product'


def backbone(package: str, name: str, **settings: Any) -> nn.Module:
    """A backbone of an OpenMMLab package."""
    module = import_module(f'{package}.models.backbones')
    built: nn.Module = getattr(module, name)(**settings)
    return built


def of_timm(name: str, **settings: Any) -> nn.Module:
    """A classifier of timm, of ten classes."""
    timm: Any = import_module('timm')
    built: nn.Module = timm.create_model(name, num_classes=10, **settings)
    return built


mmpretrain, mmdet = partial(backbone, 'mmpretrain'), partial(backbone, 'mmdet')
DEIT = {'arch': 'deit-tiny', 'img_size': EDGE, 'patch_size': 16}
WINDOWS = {'img_size': EDGE, 'window_size': 2}
FOUR = [1, 1, 1, 1]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    'ViT, DeiT (mmpretrain)': partial(mmpretrain, 'VisionTransformer', **DEIT),
    'distilled DeiT (mmpretrain)': partial(
        mmpretrain, 'DistilledVisionTransformer', **DEIT
    ),
    'BEiT (mmpretrain)': partial(mmpretrain, 'BEiTViT', **DEIT),
    'Swin (mmpretrain)': partial(
        mmpretrain, 'SwinTransformer', arch='tiny', **WINDOWS
    ),
    'Swin V2 (mmpretrain)': partial(
        mmpretrain,
        'SwinTransformerV2',
        arch='tiny',
        img_size=EDGE,
        window_size=[2] * 4,
    ),
    'Twins-PCPVT (mmpretrain)': partial(mmpretrain, 'PCPVT', arch='small'),
    'Twins-SVT (mmpretrain)': partial(mmpretrain, 'SVT', arch='small'),
    'DaViT (mmpretrain)': partial(
        mmpretrain, 'DaViT', arch='tiny', window_size=2
    ),
    'PVT (mmdet)': partial(
        mmdet,
        'PyramidVisionTransformer',
        num_layers=FOUR,
        pretrain_img_size=EDGE,
    ),
    'PVT V2 (mmdet)': partial(
        mmdet, 'PyramidVisionTransformerV2', embed_dims=32, num_layers=FOUR
    ),
    'Swin (mmdet)': partial(
        mmdet,
        'SwinTransformer',
        embed_dims=24,
        depths=(2, 2, 2, 2),
        num_heads=(3, 6, 12, 24),
        window_size=2,
    ),
    'ViT (timm)': partial(of_timm, 'vit_tiny_patch16_224', img_size=EDGE),
    'CaiT (timm)': partial(of_timm, 'cait_xxs24_224', img_size=EDGE),
    'PiT (timm)': partial(of_timm, 'pit_ti_224', img_size=EDGE),
    'NesT (timm)': partial(of_timm, 'nest_tiny', img_size=EDGE),
    'PVT V2 (timm)': partial(of_timm, 'pvt_v2_b0'),
    'Swin V2-CR (timm)': partial(of_timm, 'swinv2_cr_tiny_ns_224', **WINDOWS),
    'DaViT (timm)': partial(of_timm, 'davit_tiny'),
}


def main() -> None:
    """Prints a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'networks', nargs='*', metavar='NETWORK', help='default: all'
    )
    names = parser.parse_args().networks or list(NETWORKS)
    unknown = set(names) - set(NETWORKS)
    if unknown:
        parser.error(f'{", ".join(unknown)}: choose of {", ".join(NETWORKS)}')
    for name in names:
        torch.manual_seed(0)
        model = NETWORKS[name]()
        model.eval()
        found = analyse(model, torch.rand(1, 3, EDGE, EDGE))
        share = prunable_share(found, operators=OPERATORS)
        print(f'| {name} | {100 * share:.1f} % |', flush=True)


if __name__ == '__main__':
    main()
