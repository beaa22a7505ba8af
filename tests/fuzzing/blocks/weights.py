# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are computed from others at every forward."""

from ..writer import MAP, Writer, block

# Functions of a weight k [out, in, ..] with inner dimensions {d}.
BY_ELEMENT = (
    'torch.tanh',
    'torch.exp',
    'functional.softplus',
    'lambda k: k * 0.5',
)
OVER_INPUTS = (
    'lambda k: k - k.mean({d}, keepdim=True)',
    'lambda k: (k - k.mean({d}, keepdim=True)) / (k.std({d}, keepdim=True) + 1e-3)',
    'lambda k: k / (k.square().sum({d}, keepdim=True) + 1e-3).sqrt()',
    'lambda k: functional.normalize(k.flatten(1), dim=1).view_as(k)',
    'lambda k: k.flatten(1).softmax(1).view_as(k)',
    'lambda k: functional.layer_norm(k, k.shape[1:])',
    'lambda k: k / (k.abs().amax({d}, keepdim=True) + 1e-3)',
)
OVER_ALL = (
    'lambda k: k / k.norm()',
    'lambda k: k / (k.abs().mean() + 1e-3)',
    'lambda k: k / (k.abs().sum() + 1e-3)',
)


def _function(w: Writer) -> str:
    dims = tuple(range(1, (w.nd if w.kind == MAP else 0) + 2))
    kind = w.rng.choice((BY_ELEMENT, OVER_INPUTS, OVER_ALL))
    return w.one_of(*kind).replace('{d}', str(dims))


def _wrapped(w: Writer, *wraps: str) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    made = w.parts.pop().split(' = ', 1)[1]
    w.after(f'{layer} = {w.one_of(*wraps).format(made)}')
    w(f'x = {layer}(x).relu()')
    w.c = width


@block()
def spectral_norm(w: Writer) -> None:
    _wrapped(
        w,
        'nn.utils.parametrizations.spectral_norm({})',
        'nn.utils.parametrizations.spectral_norm({}, dim=1)',
        'nn.utils.spectral_norm({})',
    )


@block()
def old_weight_norm(w: Writer) -> None:
    _wrapped(
        w, 'nn.utils.weight_norm({})', 'nn.utils.weight_norm({}, dim=None)'
    )


@block()
def orthogonal(w: Writer) -> None:
    _wrapped(w, 'nn.utils.parametrizations.orthogonal({})')


@block()
def parametrised(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    w.after(
        'nn.utils.parametrize.register_parametrization('
        f'{layer}, "weight", Computed({_function(w)}))'
    )
    w(f'x = {w.act(f"{layer}(x)")}')
    w.c = width


@block(MAP)
def own_weight(w: Writer) -> None:
    width = w.width()
    layer = w.conv(w.c, width, w.rng.choice((1, 3)))
    made = w.parts.pop().split(' = ', 1)[1]
    w.after(f'{layer} = Holding({made}, {_function(w)})')
    w(f'x = {w.act(f"{layer}(x)")}')
    w.c = width
