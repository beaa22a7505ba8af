# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A device that computes as the CPU does, but is another one.

What a GPU would be slow at can be counted without one: operators, each of
which is started on its own, and answers, for each of which it must first do
all that it was given. Tensors of both devices do not mix.
"""

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_leaves, tree_map_only

# No backend of this build; autograd runs it in the thread of the CPU.
DEVICE = torch.device('lazy')
# What cannot go on before the values are known.
ANSWERS = {
    '_local_scalar_dense',
    'equal',
    'is_nonzero',
    'masked_select',
    'nonzero',
    '_unique2',
    'unique_dim',
    'bincount',
}


class Remote(torch.Tensor):
    """A tensor on the device, with its values on the CPU."""

    @staticmethod
    def __new__(cls, value):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=DEVICE,
        )
        made.value = value
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f'Remote({self.value})'

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Runs an operator on the values; what comes out is on the device."""
    target = kwargs.get('device')
    remote = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Remote)]
    there = target == DEVICE if target is not None else bool(remote)
    inner = tree_map_only(Remote, lambda t: t.value, (args, dict(kwargs)))
    if target is not None:
        inner[1]['device'] = torch.device('cpu')
    out = func(*inner[0], **inner[1])
    if not there:
        return out
    out = tree_map_only(torch.Tensor, Remote, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


class Watch(TorchDispatchMode):
    """Counts what the device is asked for.

    Attributes:
        operators (list): Names of what it was given to do, but for views.
        answers (list): Names of what it had to answer.
    """

    def __init__(self):
        super().__init__()
        self.operators, self.answers = [], []

    def counts(self):
        """How many operators and answers so far."""
        return len(self.operators), len(self.answers)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [
            a
            for a in tree_leaves((args, kwargs))
            if isinstance(a, torch.Tensor)
        ]
        remote = [t for t in tensors if isinstance(t, Remote)]
        if remote or kwargs.get('device') == DEVICE:
            self._note(func, name, args, kwargs, tensors, remote)
        return run(func, args, kwargs)

    def _note(self, func, name, args, kwargs, tensors, remote):
        target = kwargs.get('device')
        home = target not in (None, DEVICE)
        mixed = name == 'copy_' and len(remote) < len(tensors)
        moves = mixed or target is not None
        if not moves:
            others = [t for t in tensors if not isinstance(t, Remote)]
            assert all(t.dim() == 0 for t in others), f'{name} on two devices'
        brings = home or (mixed and not isinstance(args[0], Remote))
        if name in ANSWERS or brings or _by_mask(name, args):
            self.answers.append(name)
        if not func.is_view and name not in ('detach', 'alias'):
            self.operators.append(name)


def _by_mask(name, args):
    """Indices of type bool become numbers first, which takes an answer."""
    return name in ('index', 'index_put', 'index_put_') and any(
        i is not None and i.dtype == torch.bool for i in args[1]
    )
