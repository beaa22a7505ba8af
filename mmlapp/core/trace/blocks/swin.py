# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Swin's window attention (arXiv 2103.14030), of mmpretrain and mmdet.

It takes the width of its heads from its input: queries, keys and values are
reshaped by the number of channels that come in. Seen from operators alone
nothing of that may change; as a whole, the same channels can go from the
input, from all three and from every head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..labels import Axis
from ..record import INPUT_REASON
from ..rules.layer import (
    all_but,
    check_zero,
    emit,
    ids_of,
    note_call,
    register,
)
from ..tracer import Tracer
from .registry import register_block
from .shapes import shape_of

MIXED = 'mixed by attention'


def adjust_swin(module: Any) -> None:
    """Widths of the stages whose outputs it reshapes."""
    widths = list(module.num_features)
    for i in module.out_indices:
        widths[i] = shape_of(getattr(module, f'norm{i}'), 'weight')[0]
    module.num_features = widths


def is_joint_attention(module: nn.Module) -> bool:
    """Whether queries, keys and values come from one linear layer."""
    qkv, proj = getattr(module, 'qkv', None), getattr(module, 'proj', None)
    return (
        isinstance(qkv, nn.Linear)
        and isinstance(proj, nn.Linear)
        and qkv.out_features == 3 * qkv.in_features == 3 * proj.in_features
        and qkv.in_features % int(getattr(module, 'num_heads', 0) or 1) == 0
    )


def joint_attention(
    tracer: Tracer, module: Any, args: Sequence[Any], out: Any
) -> None:
    """Position j of every head goes with channel j of every head's input.

    The scale stays: such blocks compute it when they are built.

    Args:
        tracer (Tracer): Receives ties, labels and multiply-adds.
        module (nn.Module): With ``qkv``, ``proj`` and ``num_heads``.
        args (Sequence): Its input first, ``[batch, length, channels]``.
        out (Tensor): The same shape.
    """
    x: Tensor = args[0]
    read, kernel = tracer.labels(x), tracer.labels(module.qkv.weight)
    tracer.note_reader(read)
    tracer.freeze(all_but(read, 2), MIXED)
    width, heads = module.qkv.in_features, int(module.num_heads)
    # x is [batch, length, C], the weight of qkv [3C, C], that of proj [C, C].
    # Rows [3C] are used as [3, heads, C / heads], the input as [C].
    entered = ids_of(read, 2, width)
    rows = ids_of(kernel, 0, 3 * width)
    columns = ids_of(kernel, 1, width)
    tracer.graph.unite(entered, columns, INPUT_REASON)
    check_zero(tracer, read.axes.get(2), kernel, 1)
    parts = rows.view(3, heads, -1)
    # [1, 1, C/h] with [3, h, C/h]: position j goes in queries, keys and values
    # of all heads, since the module reshapes to equal heads.
    tracer.graph.unite(parts[:1, :1], parts, INPUT_REASON)
    # [h, C/h] with [h, C/h]: it reshapes by the width of its input, which must
    # shrink as the rows do, head by head.
    tracer.graph.unite(entered.view(heads, -1), parts[0], INPUT_REASON)
    register(tracer, Axis(rows, kernel.masks_to_zero(0)), module.qkv.bias)

    leaves = tracer.labels(module.proj.weight)
    # Values leave as [batch, length, C], head after head: the inputs of proj.
    # Its outputs [C] are channels of their own.
    value, made = parts[2].reshape(-1), ids_of(leaves, 0, width)
    tracer.graph.unite(value, ids_of(leaves, 1, width), INPUT_REASON)
    batch, length, _ = x.shape
    query = x.new_empty(1).expand(batch, length, 3 * width)
    qkv, proj = module.qkv.weight, module.proj.weight
    name = tracer.modules[id(module)]
    note_call(
        tracer,
        'product',
        (x, qkv.t(), query),
        {'out': rows, 'in': columns},
        f'{name}.qkv',
    )
    # Scores: every query with every key of its window, over the width of a
    # head, heads times, is length^2 * C. Values are summed by them alike.
    parts_of_head = x.view(batch, length, heads, -1).movedim(2, 1)
    keys = parts_of_head.transpose(2, 3)  # [b, heads, C/h, L]
    scores = x.new_empty(1).expand(batch, heads, length, length)
    for part, tensors, dim, ids in (
        ('scores', (parts_of_head, keys, scores), 'in', rows[:width]),
        ('values', (scores, parts_of_head, parts_of_head), 'out', value),
    ):
        note_call(tracer, 'product', tensors, {dim: ids}, f'{name}.{part}')
    note_call(
        tracer,
        'product',
        (x, proj.t(), out),
        {'out': made, 'in': value},
        f'{name}.proj',
    )
    axis = Axis(made, leaves.masks_to_zero(0))
    emit(tracer, out, 2, axis, module.proj.bias)


register_block('SwinTransformer', adjust=adjust_swin)
register_block(
    'WindowMSA', rule=joint_attention, rule_applies=is_joint_attention
)
