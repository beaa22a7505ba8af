# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attention of PyTorch, followed as a whole.

Its forward takes the width of a head from that of the input, and averages
over heads what nobody may read. With fewer heads it becomes
:class:`NarrowAttention`, which computes the same from the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...attention.multihead import NarrowAttention, is_known_form
from ...mixins import mix_in
from ..labels import Axis, Labels
from ..record import INPUT_REASON
from ..rules.layer import all_but, check_zero, emit, ids_of, note_call, tie_own
from ..tracer import Tracer
from .registry import register_block
from .shapes import shape_of

MIXED = 'mixed by attention'
AVERAGED = 'of heads whose weights are averaged, and read'
APART = 'of heads of which each has a mask of its own'


def adjust_attention(module: Any) -> None:
    """Heads are as wide as they were; there may be fewer."""
    if not is_known_form(module):
        return
    narrow = isinstance(module, NarrowAttention)
    packed = module._parameters.get('in_proj_weight') is not None
    names = 'in_proj_weight' if packed else 'q_proj_weight'
    rows, width = shape_of(module, names)
    inner = rows // 3 if packed else rows
    out, _ = shape_of(module.out_proj, 'weight')
    if not narrow and inner == width == out == module.embed_dim:
        return
    module.num_heads, module.embed_dim = inner // module.head_dim, width
    module.kdim, module.vdim = (
        width if packed else shape_of(module, f'{name}_proj_weight')[1]
        for name in 'kv'
    )
    # PyTorch then asks for no kernel that knows its own form alone.
    module._qkv_same_embed_dim = False
    if not narrow:
        mix_in(module, NarrowAttention)


def _inner(module: Any) -> int:
    """Channels of all heads together."""
    return int(module.num_heads) * int(module.head_dim)


def adjust_encoder(module: Any) -> None:
    """Nested tensors need the kernel for all of an encoder's layer."""
    layers = [m for m in module.modules() if isinstance(m, NarrowAttention)]
    module.use_nested_tensor &= not layers


def attend(tracer: Tracer, module: Any, args: Sequence[Any], out: Any) -> None:
    """A head goes with its rows of queries, keys and values.

    Args:
        tracer (Tracer): Receives ties, labels and multiply-adds.
        module (nn.MultiheadAttention): With its own forward.
        args (Sequence): Query, key and value first.
        out (tuple): What they give, and weights or None.
    """
    heads, inner = int(module.num_heads), _inner(module)
    entries = [tracer.labels(x) for x in args[:3]]
    for labels, x in zip(entries, args[:3], strict=True):
        tracer.note_reader(labels)
        tracer.freeze(all_but(labels, x.dim() - 1), MIXED)
    # [3, H d]: the rows of each head in each part, [3, H, d].
    rows = torch.stack(
        [_project(tracer, module, i, *args[:3]) for i in range(3)]
    )
    parts = rows.view(3, heads, -1)
    # [1, H, 1] against [3, H, d]: one label for all rows of a head, that of
    # its first value.
    tracer.graph.unite(parts[-1:, :, :1], parts, INPUT_REASON)
    tracer.heads.rows.append(rows[:2].flatten())
    tracer.heads.whole.append(parts[2])
    for last in (module.bias_k, module.bias_v):
        tie_own(tracer, last, rows[2])
    if module.bias_v is not None:
        # Values as well, that of one more token.
        axes = tracer.labels(module.bias_v).axes.values()
        for axis in axes:
            tracer.trace.masked.update(tracer.sites_of(axis.ids))
    weights = tracer.labels(module.out_proj.weight)
    made = ids_of(weights, 0, len(module.out_proj.weight))
    tracer.graph.unite(rows[2], ids_of(weights, 1, inner), INPUT_REASON)
    _mask(tracer, args[3:], heads, parts[2, :, 0])
    _products(tracer, module, args, rows[2], made)
    if out[1] is not None:
        _weights(tracer, out[1], args[0], parts[2, :, 0])
    axis = Axis(made, weights.masks_to_zero(0))
    emit(tracer, out[0], out[0].dim() - 1, axis, module.out_proj.bias)


def _project(
    tracer: Tracer, module: Any, part: int, *inputs: Tensor
) -> Tensor:
    """Reads one of query, key and value; returns the rows that it makes."""
    inner, x = _inner(module), inputs[part]
    # A packed weight is [3 H d, E]: queries, keys, values.
    span = slice(part * inner, (part + 1) * inner)
    packed = module.in_proj_weight is not None
    name = 'in' if packed else 'qkv'[part]
    weight = getattr(module, f'{name}_proj_weight')
    kernel = tracer.labels(weight)
    rows = ids_of(kernel, 0, len(weight))
    rows = rows[span] if packed else rows
    labels, last = tracer.labels(x), x.dim() - 1
    columns = ids_of(kernel, 1, weight.shape[1])
    tracer.graph.unite(
        ids_of(labels, last, x.shape[last]), columns, INPUT_REASON
    )
    check_zero(tracer, labels.axes.get(last), kernel, 1)
    sites = tracer.sites_of(rows)
    if module.in_proj_bias is not None:
        shift = ids_of(tracer.labels(module.in_proj_bias), 0, 3 * inner)
        tracer.graph.unite(rows, shift[span], INPUT_REASON)
        sites += tracer.sites_of(shift)
        if part < 2:
            tracer.heads.rows.append(shift[span])
    # Nobody but the module reads what this emits.
    tracer.trace.producers.update(sites[:1])
    tracer.trace.masked.update(sites)
    note_call(
        tracer,
        'product',
        (x, weight[span].t() if packed else weight.t(), x),
        {'out': rows, 'in': columns},
        f'{tracer.modules[id(module)]}.{"qkv"[part]}',
    )
    return rows


def _mask(
    tracer: Tracer, others: Sequence[Any], heads: int, ids: Tensor
) -> None:
    """A mask for each head ``[N heads, L, S]`` is made by somebody else."""
    tensors = [t for t in others if isinstance(t, Tensor)]
    for mask in tensors:
        tracer.freeze(tracer.labels(mask), MIXED)
        if mask.dim() == 3 and heads > 1:
            tracer.graph.freeze(ids, APART)


def _weights(
    tracer: Tracer, weights: Tensor, query: Tensor, ids: Tensor
) -> None:
    """One for each head, ``[N, heads, L, S]``, or averaged over them."""
    if weights.dim() > query.dim():
        axis = Axis(ids, zero=False)
        tracer.set(weights, Labels({weights.dim() - 3: axis}))
    else:
        tracer.set(weights, Labels(once_read=(ids, AVERAGED)))


def _products(
    tracer: Tracer,
    module: Any,
    args: Sequence[Any],
    values: Tensor,
    made: Tensor,
) -> None:
    """Notes what scores, values and the output cost.

    Args:
        tracer (Tracer): Receives it.
        module (nn.MultiheadAttention): The module.
        args (Sequence): Query and key first.
        values (Tensor): Labels of the inputs of ``out_proj``, ``[H d]``.
        made (Tensor): Labels of its outputs.
    """
    query, key = args[:2]
    steps = 1 if module.batch_first or query.dim() < 3 else 0
    length, keys = query.shape[-2], key.shape[-2]
    if not steps:
        length, keys = query.shape[0], key.shape[0]
    batch = query.numel() // (length * query.shape[-1])
    # Each of them is one more token among keys and values.
    keys += (module.bias_k is not None) + bool(module.add_zero_attn)
    heads, width = int(module.num_heads), int(module.head_dim)
    blank, name = query.new_empty(1), tracer.modules[id(module)]
    # Shapes alone are noted: expanded, one number has any of them.
    q = blank.expand(batch, heads, length, width)
    k = blank.expand(batch, heads, keys, width)
    scores = blank.expand(batch, heads, length, keys)
    dims = {'heads': values.view(heads, -1)[:, 0]}
    for part, tensors in (
        ('scores', (q, k.transpose(2, 3), scores)),
        ('values', (scores, k, q)),
    ):
        note_call(tracer, 'product', tensors, dims, f'{name}.{part}')
    mixed = blank.expand(batch, length, heads * width)
    note_call(
        tracer,
        'product',
        (mixed, module.out_proj.weight.t(), query),
        {'in': values, 'out': made},
        f'{name}.out_proj',
    )


register_block(
    'torch.nn.modules.activation.MultiheadAttention',
    adjust=adjust_attention,
    rule=attend,
    rule_applies=is_known_form,
)
register_block(
    'torch.nn.modules.transformer.TransformerEncoder', adjust=adjust_encoder
)
