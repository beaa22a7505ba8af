# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Python that depends on shapes."""

from ..writer import MAP, Writer, block


@block()
def by_channels(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    w(f'x = {layer}(x)')
    w.c = width
    limit = w.part_of(width)
    w(f'if x.shape[{w.dim}] > {limit}:')
    w('    x = x.relu()')
    w('else:')
    w('    x = -x')


@block()
def by_size(w: Writer) -> None:
    a = w.layer(w.c, w.c)
    w(f'x = {a}(x) if len(x) < 100 else x')


@block()
def asserted(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w(f'assert x.shape[{w.dim}] == {width}')
    w.c = width


@block()
def by_comparison(w: Writer) -> None:
    w('if torch.equal(x, x) and torch.isfinite(x).all():')
    w(f'    x = {w.layer(w.c, w.c)}(x)')


@block(MAP)
def made_by_shape(w: Writer) -> None:
    w(
        w.one_of(
            'x = x * torch.ones(x.shape[1], *[1] * (x.dim() - 2), dtype=x.dtype)',
            'x = x + torch.arange(x.shape[1], dtype=x.dtype).view(-1, *[1] * (x.dim() - 2))',
            'x = x @ torch.eye(x.shape[-1], dtype=x.dtype)',
            'x = torch.einsum("nc...,cd->nd...", x, torch.eye(x.shape[1], dtype=x.dtype))',
            'x = x + x.new_full((x.shape[1], *[1] * (x.dim() - 2)), 0.5)',
        )
    )


@block()
def without_gradient(w: Writer) -> None:
    layer = w.layer(w.c, w.c)
    w('with torch.no_grad():')
    w(f'    y = {layer}(x).sigmoid()')
    w('x = x * y.detach()')


@block()
def only_in_training(w: Writer) -> None:
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width
    change = w.one_of(
        f'x - x.mean({w.dim}, keepdim=True)',
        'x / (1 + x.abs().mean())',
        f'x * x.shape[{w.dim}] ** -0.5',
        f'functional.normalize(x, dim={w.dim})',
        'x.tanh() * 2',
        'x + x.detach()',
    )
    mode = w.one_of('self.training', 'not self.training')
    w(f'x = {change} if {mode} else x')


@block()
def inner_function(w: Writer) -> None:
    width = w.width()
    layers = w.part(
        f'nn.ModuleList([{", ".join(w.layer(w.c, width) for _ in range(2))}])'
    )
    w(f'x = sum(layer(x) for layer in {layers})')
    w.c = width


@block()
def dictionary(w: Writer) -> None:
    width = w.width()
    layers = w.part(
        f'nn.ModuleDict({{"a": {w.layer(w.c, width)}, "b": {w.layer(w.c, width)}}})'
    )
    w(f'y = {{key: layer(x) for key, layer in {layers}.items()}}')
    w('x = y["a"].relu() - y["b"]')
    w.c = width


@block()
def hooked(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    hook = w.one_of(
        'register_forward_hook(lambda module, args, y: y * 2)',
        'register_forward_hook(lambda module, args, y: y.relu())',
        'register_forward_pre_hook(lambda module, args: (args[0] - 1,))',
    )
    w.after(f'{layer}.{hook}')
    w(f'x = {layer}(x)')
    w.c = width


@block()
def recursive(w: Writer) -> None:
    layer = w.layer(w.c, w.c)
    w('def again(y, depth):')
    w(f'    return y if depth == 0 else again({layer}(y).tanh(), depth - 1)')
    w('x = again(x, 3)')


@block()
def list_of_parameters(w: Writer) -> None:
    scales = ', '.join(f'torch.randn({w.c})' for _ in range(2))
    parts = w.part(f'nn.ParameterList([{scales}])')
    w(f'for scale in {parts}:')
    w(f'    x = (x * scale.view({w.ones})).relu()')


@block()
def mapped(w: Writer) -> None:
    width = w.width()
    layer = w.layer(w.c, width)
    w(f'x = torch.vmap({layer})(x[None])[0]')
    w.c = width


@block(since=5000)
def by_few_channels(w: Writer) -> None:
    """Another branch where few are left, alike where all are positive."""
    width = w.width()
    w(f'x = {w.layer(w.c, width)}(x)')
    w.c = width
    few, size = w.rng.randint(1, 4), f'x.shape[{w.dim}]'
    asked = w.one_of(
        f'{size} > {few}',
        f'{size} not in (1, {few})',
        f'not {size} < {few}',
        f'min({size}, {few}) == {few}',
        f'{size} + {size} >= {few}',
        f'max({size}, {few}) != {few}',
    )
    w(f'x = (x.abs() if {asked} else x.relu()) - 0.5 * x')
