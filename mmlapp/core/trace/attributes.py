# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attributes that repeat the sizes of a module's tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

Adjuster = Callable[[Any], None]


def _conv(module: Any) -> None:
    """Channel counts of a convolution follow its weight and groups."""
    first, second = _shape(module, 'weight')[:2]
    inner = second * int(module.groups)
    turned = bool(getattr(module, 'transposed', False))
    module.out_channels = inner if turned else first
    module.in_channels = first if turned else inner


def _linear(module: Any) -> None:
    module.out_features, module.in_features = _shape(module, 'weight')


def _batch_norm(module: Any) -> None:
    if module.affine or module.running_mean is not None:
        name = 'weight' if module.affine else 'running_mean'
        module.num_features = _shape(module, name)[0]


def _layer_norm(module: Any) -> None:
    if module._parameters.get('weight') is None:
        return
    module.normalized_shape = _shape(module, 'weight')
    if hasattr(module, 'num_channels'):
        module.num_channels = _shape(module, 'weight')[0]


def _group_norm(module: Any) -> None:
    if module.affine:
        module.num_channels = _shape(module, 'weight')[0]


def _grn(module: Any) -> None:
    module.in_channels = _shape(module, 'gamma')[0]


def _l2_norm(module: Any) -> None:
    module.n_dims = _shape(module, 'weight')[0]


def _res2net(module: Any) -> None:
    """Width of the pieces that it splits its channels into."""
    module.width = _shape(module.convs[0], 'weight')[1]


def _hornet(module: Any) -> None:
    """Widths of the pieces that it splits its channels into."""
    shapes = [_shape(conv, 'weight') for conv in module.projs]
    module.dims = [shape[1] for shape in shapes] + [shapes[-1][0]]


def _edgenext(module: Any) -> None:
    """Width of the pieces that it splits its channels into."""
    module.conv_channels = _shape(module.conv_modules[0], 'weight')[0]


def _mixed_conv(module: Any) -> None:
    """Widths of the pieces that its convolutions read."""
    module.splits = [_inputs(conv) for conv in module.children()]


def _cross_stage(module: Any) -> None:
    """Twice the width of the pieces that it splits its channels into."""
    module.expand_chs = _shape(module.conv_exp.conv, 'weight')[0]


def _selective_kernel(module: Any) -> None:
    """Channels that it may split into one piece for every path."""
    paths = module.num_paths if module.split_input else 1
    module.in_channels = _inputs(module.paths[0].conv) * paths


def _inputs(conv: Any) -> int:
    return _shape(conv, 'weight')[1] * int(conv.groups)


def _repmlp(module: Any) -> None:
    """Numbers by which it cuts its channels into sets."""
    module.channels = _shape(module.gp.conv1.conv, 'weight')[1]
    module.num_sharesets = int(module.fc3.groups)
    module._path_vec_channles = int(module.fc3.in_channels)


def _swin(module: Any) -> None:
    """Widths of the stages whose outputs it reshapes."""
    widths = list(module.num_features)
    for i in module.out_indices:
        widths[i] = _shape(getattr(module, f'norm{i}'), 'weight')[0]
    module.num_features = widths


def _shape(module: Any, name: str) -> tuple[int, ...]:
    tensor: Tensor | None = module._parameters.get(name)
    tensor = module._buffers[name] if tensor is None else tensor
    assert tensor is not None
    return tuple(tensor.shape)


# By name, so that classes of other packages need not be imported. Rows hold
# for subclasses too.
ADJUSTERS: dict[str, Adjuster] = {
    '_ConvNd': _conv,
    'DeformConv2d': _conv,
    'ModulatedDeformConv2d': _conv,
    'Linear': _linear,
    '_NormBase': _batch_norm,
    'LayerNorm': _layer_norm,
    'RMSNorm': _layer_norm,
    'HorNetLayerNorm': _layer_norm,
    'GroupNorm': _group_norm,
    'GRN': _grn,
    'L2Norm': _l2_norm,
    'Bottle2neck': _res2net,
    'gnConv': _hornet,
    'RepMLPBlock': _repmlp,
    'SDTAEncoder': _edgenext,
    'SwinTransformer': _swin,
    # timm
    'MixedConv2d': _mixed_conv,
    'CrossStage': _cross_stage,
    'CrossStage3': _cross_stage,
    'SelectiveKernel': _selective_kernel,
}


def sync(module: nn.Module) -> None:
    """Makes a module's attributes follow its narrowed tensors.

    Args:
        module (nn.Module): The module; not its children.
    """
    for base in type(module).__mro__:
        adjust = ADJUSTERS.get(base.__name__)
        if adjust is not None:
            # Elsewhere another class may have the name; if it then does not
            # run, the trial of the network finds that out.
            with suppress(AttributeError, IndexError, KeyError, TypeError):
                adjust(module)
            return


def register_adjuster(name: str) -> Callable[[Adjuster], Adjuster]:
    """Adds a row for a class that keeps channel counts in attributes.

    The function gets a module whose tensors, and those of its children,
    have been narrowed, and sets the attributes that its forward reads.

    Args:
        name (str): Name of the class, without its package.

    Examples:
        >>> @register_adjuster('MyBlock')
        ... def my_block(module):
        ...     module.width = module.conv.out_channels
    """

    def add(adjuster: Adjuster) -> Adjuster:
        ADJUSTERS[name] = adjuster
        return adjuster

    return add
