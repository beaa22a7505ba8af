# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from mutations import compress, entries_of, swap_contents
from torch import nn

from mmlapp.core import (
    ChannelPlan,
    PruningError,
    attach,
    fuse,
    load_slim,
    narrow,
    save_slim,
)
from mmlapp.core.handover.slim import FOLDS, slim_state
from mmlapp.core.plan.carried import KEY, to_entry


@pytest.mark.parametrize('bypass', [None, 'depthwise'])
def test_a_file_makes_a_dense_network_slim(
    slim, make, image, tmp_path, bypass
):
    model, plan, masked = slim(bypass)
    save_slim(model, tmp_path / 'slim.pth', plan)
    dense = make()
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    found = load_slim(dense, tmp_path / 'slim.pth')
    torch.testing.assert_close(found(image), masked)
    assert found.backbone.a.out_channels == len(
        plan.slices['backbone.a.weight'][0].index
    )
    # The dense network stays as it was.
    for name, value in dense.state_dict().items():
        assert torch.equal(value, before[name])
    assert [path.name for path in tmp_path.iterdir()] == ['slim.pth']


def test_weights_and_plan_apart(slim, make, image, tmp_path):
    model, plan, masked = slim()
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    plan.save(tmp_path / 'plan.json')
    plan = ChannelPlan.load(tmp_path / 'plan.json')
    found = load_slim(make(), tmp_path / 'weights.pth', plan)
    torch.testing.assert_close(found(image), masked)


def test_a_network_that_was_pruned_again(slim, make, image, mask_randomly):
    model, first, _ = slim()
    pruner = attach(model, image)
    mask_randomly(pruner)
    second = pruner.plan()
    narrow(model, second)
    found = load_slim(make(), slim_state(model, [first, second]))
    torch.testing.assert_close(found(image), model(image))


def test_stripes_travel_and_take_in_a_norm(
    net, conv, image, mask_randomly, randomise, tmp_path
):
    def build():
        return net(
            lambda m, x: (y := m.a(x)) + m.norm(m.c(m.b(y).relu())),
            a=conv(3, 8),
            b=conv(8, 12),
            c=conv(12, 8, bias=False),
            norm=nn.BatchNorm2d(8),
        ).eval()

    model = randomise(build())
    pruner = attach(model, image, unit='stripes')
    mask_randomly(pruner)
    expected, plan = model(image), pruner.plan()
    fused = fuse(narrow(model, plan), image, [plan])
    assert fused.folds == (('c', 'norm'),)
    path = tmp_path / 'slim.pth'
    save_slim(fused.model, path, fused.plans, fused.folds)
    found = load_slim(build(), path)
    torch.testing.assert_close(found(image), expected)
    assert isinstance(found.norm, nn.Identity)


@pytest.mark.parametrize('fused', [False, True])
def test_a_backbone_moves_into_another_network(
    slim, make, net, image, fused, tmp_path
):
    model, plan, _ = slim()
    features = model.backbone(image)
    plans, folds = (plan,), ()
    if fused:
        made = fuse(model, image, plans)
        model, plans, folds = made.model, made.plans, made.folds
    save_slim(model, tmp_path / 'slim.pth', plans, folds)
    detector = net(lambda m, x: m.body(x).sigmoid(), body=make().backbone)
    detector.body = load_slim(
        detector.body, tmp_path / 'slim.pth', prefix='backbone'
    )
    torch.testing.assert_close(detector(image), features.sigmoid())


@pytest.mark.parametrize('bypass', [None, 'repvgg'])
def test_a_fused_network(slim, make, image, tmp_path, bypass):
    """As narrow as before; no norm, no branch, and the same outputs."""
    model, plan, masked = slim(bypass)
    fused = fuse(model, image, [plan])
    save_slim(fused.model, tmp_path / 'slim.pth', fused.plans, fused.folds)
    found = load_slim(make(), tmp_path / 'slim.pth')
    torch.testing.assert_close(found(image), masked)
    assert not [n for n in found.state_dict() if 'bypass' in n or 'norm' in n]


def test_a_merged_branch_gives_a_bias(net, conv, image, mask_randomly):
    """That of its norm, to a layer that has none and no norm behind it."""

    def build():
        return net(
            lambda m, x: m.b(m.a(x).relu()),
            a=conv(3, 8, bias=False),
            b=conv(8, 8),
        ).eval()

    model = build()
    pruner = attach(model, image, bypass='repvgg')
    mask_randomly(pruner)
    plan = pruner.plan()
    fused = fuse(narrow(model, plan), image, [plan])
    assert fused.plans[0].biases == ('a',)
    found = load_slim(build(), slim_state(fused.model, fused.plans))
    torch.testing.assert_close(found(image), model(image))


@pytest.mark.slow
def test_the_core_alone_loads_it(slim, tmp_path):
    """Without MMEngine, and with a network that knows nothing of this."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)).eval()
    image = torch.rand(1, 3, 9, 9)
    pruner = attach(model, image)
    pruner.begin({'flops': 0.5}, steps=1)
    pruner.step()
    plan = pruner.plan()
    save_slim(narrow(model, plan), tmp_path / 'slim.pth', plan)
    torch.save([image, model(image).detach()], tmp_path / 'pair.pth')
    code = (
        'import sys, torch\n'
        'from torch import nn\n'
        "sys.modules['mmengine'] = sys.modules['mmcv'] = None\n"
        'from mmlapp.core import load_slim\n'
        'dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))\n'
        "image, expected = torch.load('pair.pth')\n"
        'torch.testing.assert_close('
        "load_slim(dense, 'slim.pth')(image), expected)\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run(
        [sys.executable, '-c', code],
        check=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': paths},
    )


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_code_in_a_file_does_not_run(make, tmp_path):
    torch.save({'state_dict': Bomb(tmp_path / 'ran')}, tmp_path / 'slim.pth')
    with pytest.raises(PruningError, match=r'could run code \(Unpickling'):
        load_slim(make(), tmp_path / 'slim.pth')
    assert not (tmp_path / 'ran').exists()


def truncated(data, weight):
    return data[: len(data) // 2]


def flipped(data, weight):
    """One bit of a weight, which torch.load does not see."""
    at = data.index(weight.numpy().tobytes())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def text(data, weight):
    return b'a text'


def swapped(data, weight):
    """Two storages of one size, which checksums by themselves do not tell."""
    entries = entries_of(data)
    places = {}
    for place, (name, content) in enumerate(entries):
        if '/data/' in name:
            places.setdefault(len(content), []).append(place)
    pair = next(found for found in places.values() if len(found) > 1)[:2]
    return swap_contents(data, SimpleNamespace(sample=lambda *_: pair))


def compressed(data, weight):
    """A few bytes of it may become any number."""
    return compress(data, None)


@pytest.mark.parametrize(
    'damage', [truncated, flipped, text, swapped, compressed]
)
def test_a_damaged_file(slim, make, tmp_path, damage):
    model, plan, _ = slim()
    path = tmp_path / 'slim.pth'
    save_slim(model, path, plan)
    weight = model.head.weight.detach()
    path.write_bytes(damage(path.read_bytes(), weight))
    with pytest.raises(PruningError, match=r'slim\.pth. .*damaged'):
        load_slim(make(), path)


@pytest.mark.parametrize(
    ('edit', 'text'),
    [
        (lambda s: s.pop('head.bias'), 'do not fit the network: Missing'),
        (lambda s: s.update(other=s['head.bias']), 'Unexpected'),
        (lambda s: s.pop(KEY), 'do not fit the network: size mismatch'),
        (lambda s: s.update({KEY: torch.ones(3)}), 'not to be read'),
        (lambda s: s.update({KEY: to_entry({})}), 'expected a list'),
        (lambda s: s.update({FOLDS: to_entry([1])}), 'folds in the weights'),
        (lambda s: s.update({FOLDS: to_entry([['head', 'head']])}), 'folded'),
        (lambda s: s.update({'head.bias': 'text'}), "'head.bias' of type str"),
        (
            lambda s: s.update({'head.bias': s['head.bias'].half()}),
            r'head\.bias in torch\.float16, the network in torch\.float64',
        ),
    ],
)
def test_weights_that_were_mixed_up(slim, make, edit, text):
    model, plan, _ = slim()
    state = slim_state(model, [plan])
    edit(state)
    with pytest.raises(PruningError, match=text):
        load_slim(make(), state)


def test_a_plan_of_another_run(slim, make):
    (model, plan, _), (_, theirs, _) = slim(), slim()
    assert not plan.same_shape(theirs)
    with pytest.raises(PruningError, match='not that of the weights'):
        load_slim(make(), slim_state(model, [plan]), theirs)
    with pytest.raises(PruningError, match='not that of the network: it ke'):
        slim_state(make(), [plan])


@pytest.mark.parametrize('prefix', ['', 'backbone'])
@pytest.mark.parametrize('wrapped', ['', 'module.'])
def test_masks_are_refused_of_a_part_too(make, image, prefix, wrapped):
    """The part alone would load into a dense one, as if nothing was off."""
    model = make()
    attach(model, image)
    state = {f'{wrapped}{k}': v for k, v in model.state_dict().items()}
    dense = make().backbone if prefix else make()
    with pytest.raises(PruningError, match=r'has masks \(.*pruner\.gate\)'):
        load_slim(dense, state, prefix=f'{wrapped}{prefix}')


def test_a_prefix_that_is_not_there(slim, make, tmp_path):
    model, plan, _ = slim()
    state = slim_state(model, [plan])
    with pytest.raises(PruningError, match="prefix='body': the plan has no"):
        load_slim(make().backbone, state, prefix='body')
    with pytest.raises(PruningError, match='weights have no such part'):
        load_slim(make().backbone, make().state_dict(), prefix='body')
    across = {**state, FOLDS: to_entry([['backbone.c', 'head']])}
    with pytest.raises(PruningError, match='one of them lies elsewhere'):
        load_slim(make().backbone, across, prefix='backbone')


def test_other_files_are_told_apart(make, tmp_path):
    path = tmp_path / 'slim.safetensors'
    with pytest.raises(PruningError, match='there is no such file'):
        load_slim(make(), path)
    path.write_bytes(b'')
    with pytest.raises(PruningError, match=r'safetensors\.torch\.load_file'):
        load_slim(make(), path)
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(PruningError, match='holds a list, expected a state'):
        load_slim(make(), tmp_path / 'list.pth')
