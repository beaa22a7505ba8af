# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's attention whose heads are not as wide together as its input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class NarrowAttention:
    r"""Mixin of ``nn.MultiheadAttention`` with an inner width of its own.

    .. math:: y = W_o\,[h_1; \dots; h_H] + b_o, \quad
              h_i = \mathrm{softmax}(q_i k_i^\top / \sqrt{d} + M)\, v_i

    PyTorch takes the width ``d`` of a head from that of the input; here it is
    ``head_dim``, and ``num_heads`` heads are ``H d`` wide. Weights have the
    names that they have there: ``in_proj_weight`` is ``[3 H d, E]``, and that
    of ``out_proj`` is ``[E, H d]``.
    """

    def forward(
        self: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends as ``nn.MultiheadAttention`` does, with its arguments.

        Args:
            query (Tensor): ``[N, L, E]``, ``[L, N, E]`` or ``[L, E]``.
            key (Tensor): Likewise, with ``S`` in the place of ``L``.
            value (Tensor): As the key.
            key_padding_mask (Tensor, optional): What is no key, ``[N, S]``
                or ``[S]``. Defaults to None.
            need_weights (bool): Whether to return what the softmax gives.
                Defaults to True.
            attn_mask (Tensor, optional): What no query sees, ``[L, S]`` or
                ``[N H, L, S]``. Defaults to None.
            average_attn_weights (bool): Whether weights are averaged over
                heads. Defaults to True.
            is_causal (bool): A hint that the mask is the causal one, which
                is not needed. Defaults to False.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError('is_causal needs attn_mask')
        batched = query.dim() == 3
        inputs = [
            x if batched else x.unsqueeze(0) for x in (query, key, value)
        ]
        turned = batched and not self.batch_first
        q, k, v = self._heads(
            *(x.transpose(0, 1) if turned else x for x in inputs)
        )
        mask = _merged(attn_mask, key_padding_mask, q)
        k, v, mask = self._appended(k, v, mask)
        p = self.dropout if self.training else 0.0
        mixed, weights = _mix(q, k, v, mask, p, need_weights)
        # [N, H, L, d] -> [N, L, H d]; the layer itself does not run, as it
        # does not in PyTorch's form.
        last = self.out_proj
        mixed = mixed.transpose(1, 2).flatten(2)
        out = functional.linear(mixed, last.weight, last.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights[0]
        return (out.transpose(0, 1) if turned else out), weights

    def _heads(self: Any, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values, each ``[N, H, length, d]``."""
        weights: Any = (
            [getattr(self, f'{name}_proj_weight') for name in 'qkv']
            if self.in_proj_weight is None
            else self.in_proj_weight.chunk(3)
        )
        biases: Any = [None] * 3
        if self.in_proj_bias is not None:
            biases = self.in_proj_bias.chunk(3)
        return [
            functional.linear(x, weight, bias)
            .unflatten(-1, (-1, self.head_dim))
            .transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        ]

    def _appended(
        self: Any, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with those that are no token, seen by all."""
        pairs = []
        if self.bias_k is not None:
            # [1, 1, H d] -> [1, H, 1, d]
            shape = (1, -1, 1, self.head_dim)
            pairs.append((self.bias_k.view(shape), self.bias_v.view(shape)))
        if self.add_zero_attn:
            pairs.append((torch.zeros_like(k[:, :, :1]),) * 2)
        for last_key, last_value in pairs:
            k = torch.cat([k, last_key.expand(len(k), -1, -1, -1)], 2)
            v = torch.cat([v, last_value.expand(len(v), -1, -1, -1)], 2)
            mask = None if mask is None else functional.pad(mask, (0, 1))
        return k, v, mask


def _mix(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    p: float,
    need_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """Values that are mixed, ``[N, H, L, d]``, and with which weights."""
    if not need_weights:
        attend = functional.scaled_dot_product_attention
        return attend(q, k, v, mask, dropout_p=p), None
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    weights = (scores if mask is None else scores + mask).softmax(-1)
    weights = functional.dropout(weights, p)
    return weights @ v, weights


def _merged(
    mask: Tensor | None, padding: Tensor | None, query: Tensor
) -> Tensor | None:
    """What is added to the scores ``[N, H, L, S]``; None for nothing."""
    parts = []
    if mask is not None:
        # [L, S], or [N H, L, S] -> [N, H, L, S]
        if mask.dim() == 3:
            mask = mask.unflatten(0, (len(query), -1))
        parts.append(_added(mask, query))
    if padding is not None:
        # [N, S] or [S] -> [N, 1, 1, S]
        rows = padding.view(len(query), 1, 1, -1)
        parts.append(_added(rows, query))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Minus infinity where a boolean mask hides something."""
    if mask.dtype is not torch.bool:
        return mask
    blank = torch.zeros_like(mask, dtype=like.dtype)
    return blank.masked_fill(mask, -math.inf)


def is_known_form(module: nn.Module) -> bool:
    """Whether a module attends as PyTorch's does, narrow or not.

    Args:
        module (nn.Module): Any; others have a class of the name, too.
    """
    forward = getattr(type(module), 'forward', None)
    return forward in (
        nn.MultiheadAttention.forward,
        NarrowAttention.forward,
    )
