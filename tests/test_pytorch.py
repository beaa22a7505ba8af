# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The recipes of docs/pytorch.md: each is run as it stands there."""

import re
from functools import partial
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import distributed, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import mmlapp.core
from mmlapp.core import Pruner, analyse, attach, narrow
from mmlapp.core.snapshot import exact

PATH = Path(__file__).parents[1] / 'docs' / 'pytorch.md'
PAGE = PATH.read_text('utf-8')
SECTIONS = {
    section.partition('\n')[0]: section
    for section in re.split(r'^## ', PAGE, flags=re.M)[1:]
}
# Section: shapes of the inputs and of the labels.
NETWORKS = {
    'Video': ((2, 3, 4, 16, 16), (2,)),
    'Signals': ((4, 4, 24), (4,)),
    'One label for every sample': ((4, 4, 24), (4, 24)),
    'Recurrent layers': ((4, 4, 24), (4,)),
    'Attention over time': ((4, 4, 24), (4,)),
    'Transformer of your own': ((4, 24, 4), (4,)),
    'Segmentation with DeepLabV3': ((2, 3, 32, 32), (2, 32, 32)),
    'Segmentation with a U-Net': ((2, 3, 16, 16), (2, 16, 16)),
}
SLOW = 'Video'


def run(name, names):
    """Runs the blocks of a section, in order, with names from before."""
    for block in re.findall(r'```python\n(.*?)```', SECTIONS[name], re.S):
        exec(compile(block, f'docs/pytorch.md, {name}', 'exec'), names)
    return names


def data(inputs, labels, count=2):
    """Batches with labels of five classes, some of which are missing."""
    batches = []
    for _ in range(count):
        targets = torch.randint(0, 5, labels)
        if len(labels) == 3:
            targets[:, 0] = 255
        batches.append((torch.rand(inputs), targets))
    return batches


def outputs(model, inputs):
    """What it returns in evaluation, in float64."""
    was = model.training
    with exact(model.eval()), torch.no_grad():
        result = tree_leaves(model(inputs.double()))
    model.train(was)
    return result


def counted(model, inputs):
    """Multiply-adds as torch counts them, of attention too."""
    was = model.training
    # What attention runs as one operator is not counted.
    torch.backends.mha.set_fastpath_enabled(False)
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
    ):
        model.eval()(inputs)
    torch.backends.mha.set_fastpath_enabled(True)
    model.train(was)
    return counter.get_total_flops() / 2


class Checked:
    """`narrow` of the page: what it is given must agree with its masks.

    Attributes:
        inputs (Tensor): What the networks are compared with.
        shares (list[float]): Prunable share of the FLOPs, of each network.
    """

    def __init__(self):
        self.shares = []

    def __call__(self, model, plan, optimizer=None):
        if not hasattr(model, 'pruner'):
            return narrow(model, plan, optimizer)
        cost = model.pruner.cost('flops')
        # Without any channel, what no prunable channel takes part in is left.
        left = float(cost(torch.zeros_like(model.pruner.gate)))
        self.shares.append(1 - left / cost.dense)
        masked = outputs(model, self.inputs)
        narrow(model, plan, optimizer)
        torch.testing.assert_close(outputs(model, self.inputs), masked)
        assert counted(model, self.inputs) == plan.costs['flops']['pruned']
        return model


@pytest.fixture
def checked(monkeypatch):
    """Takes the place of `narrow` on the page."""
    found = Checked()
    monkeypatch.setattr(mmlapp.core, 'narrow', found)
    return found


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(n, marks=pytest.mark.slow if n == SLOW else ())
        for n in NETWORKS
    ],
)
def test_networks_are_pruned(checked, name):
    torch.manual_seed(0)
    names = run('The loop', {})
    names['loader'] = data(*NETWORKS[name])
    checked.inputs = names['loader'][0][0]
    run(name, names)
    for cost, share in names['plan'].ratios().items():
        target = names['plan'].costs[cost].get('target', 1)
        assert share <= target
    (row,) = re.findall(rf'^\| {name} \| ([\d.]+) % \|$', PAGE, re.M)
    assert f'{checked.shares[0]:.1%}' == f'{row}%'


def test_heads_of_a_transformer_are_told(checked):
    torch.manual_seed(0)
    names = run('The loop', {})
    names['loader'] = data(*NETWORKS['Transformer of your own'])
    checked.inputs = names['loader'][0][0]
    run('Transformer of your own', names)
    left = [block.attention.num_heads for block in names['model'].blocks]
    assert list(names['heads'].values()) == left
    assert 2 <= sum(left) < 8


def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


TARGET = {'flops': 0.5}


@pytest.fixture
def parts(checked):
    """Makes what the loops of the page are given."""

    def make(batches=8, size=4):
        torch.manual_seed(0)
        model = build()
        loader = data((size, 3, 8, 8), (size,), batches)
        checked.inputs = loader[0][0]
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        return model, loader, nn.functional.cross_entropy, optimizer

    return make


def page(name):
    return run(name, run('The loop', {}))


def assert_same(model, other):
    torch.testing.assert_close(model.state_dict(), other.state_dict())


def trained(parts, epochs=1, **sizes):
    """By the plain loop."""
    model, *rest = parts(**sizes)
    train = run('The loop', {})['train']
    plan = train(model, *rest, TARGET, 1, epochs)
    return model, plan


def test_what_is_prunable_is_shown(capsys):
    show = run('The loop', {})['show']
    show(build(), torch.rand(1, 3, 8, 8))
    assert capsys.readouterr().out.splitlines() == [
        '8 0 prunable',
        '8 2 prunable',
        '5 6 output of the network',
    ]


def test_the_scaler_is_told_to_the_pruner(parts, monkeypatch):
    scales = []
    step = Pruner.step

    def noted(self, loss_scale=1.0):
        scales.append(loss_scale)
        step(self, loss_scale)

    monkeypatch.setattr(Pruner, 'step', noted)
    prune = page('Mixed precision')['prune_amp']
    small = prune(*parts(), TARGET, device='cpu')
    assert small[0].out_channels < 8
    assert scales == [2.0**16] * 8


def test_accumulated_batches_are_as_one(parts, checked):
    """Four means of two images are the mean of eight."""
    model, loader, *rest = parts()
    prune = page('Gradient accumulation')['prune_accumulating']
    prune(model, loader, *rest, TARGET)
    joined = [
        tuple(map(torch.cat, zip(*loader[i : i + 4], strict=True)))
        for i in (0, 4)
    ]
    other, _, loss_of, optimizer = parts()
    checked.inputs = joined[0][0]
    run('The loop', {})['train'](
        other, joined, loss_of, optimizer, TARGET, 1, 1
    )
    assert_same(model, other)


@pytest.fixture
def one_process():
    distributed.init_process_group(
        'gloo', store=distributed.HashStore(), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def test_a_wrapped_network_is_pruned_like_a_plain_one(parts, one_process):
    prune = page('Many devices')['prune_distributed']
    wrapped = prune(*parts(), TARGET, epochs=2)
    assert_same(wrapped, trained(parts, epochs=2)[0])


@pytest.mark.parametrize('use_buffers', [False, True])
def test_averages_become_as_small(parts, checked, use_buffers):
    """Averaged buffers, or copied ones: of the masks, too."""
    names = page('Averages of the weights')
    names['AveragedModel'] = partial(AveragedModel, use_buffers=use_buffers)
    average = names['prune_averaged'](*parts(), TARGET, epochs=2)
    model, _ = trained(parts, epochs=2)
    # The average and the network, each with its masks, and the other network.
    assert len(checked.shares) == 3
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert {n: p.shape for n, p in average.named_parameters()} == shapes
    first = average[0].weight - model[0].weight
    assert 1e-4 < first.abs().max() < 0.1


@pytest.mark.parametrize('stop', [3, 11])
def test_a_run_goes_on_where_it_was(parts, tmp_path, stop):
    """Within the phase of eight steps, or behind it."""
    names = page('Resume')
    path = tmp_path / 'checkpoint.pth'
    model, loader, loss_of, optimizer = parts()
    pruner = attach(model, loader[0][0])
    pruner.begin(TARGET, len(loader))
    plan = None
    for inputs, labels in (loader * 2)[:stop]:
        (loss_of(model(inputs), labels) + pruner.loss()).backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        if plan is None and pruner.phase == names['Phase'].FINISHED:
            plan = pruner.plan()
            narrow(model, plan, optimizer)
    names['save'](path, model, optimizer, plan)

    def sgd(parameters):
        return torch.optim.SGD(parameters, 0.1, momentum=0.9)

    torch.manual_seed(1)
    again = build()
    optimizer = names['resume'](path, again, loader[0][0], sgd)
    assert_same(again, model)
    if plan is None:
        plan = names['prune_on'](again, loader[stop:], loss_of, optimizer)
        narrow(again, plan, optimizer)
        stop = len(loader)
    for inputs, labels in (loader * 2)[stop:]:
        optimizer.zero_grad()
        loss_of(again(inputs), labels).backward()
        optimizer.step()
    assert_same(again, trained(parts, epochs=2)[0])


def test_a_network_is_kept_and_loaded(parts, tmp_path):
    names = page('Save, load, export')
    model, plan = trained(parts)
    names['keep'](model, plan, tmp_path / 'small.pth')
    loaded = names['load'](build, tmp_path / 'small.pth')
    inputs = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(loaded(inputs), model.eval()(inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_a_network_is_exported(parts, tmp_path):
    export = page('Save, load, export')['export']
    model, _ = trained(parts)
    inputs = torch.rand(2, 3, 8, 8)
    export(model, inputs, tmp_path / 'small.onnx')
    session = onnxruntime.InferenceSession(tmp_path / 'small.onnx')
    (found,) = session.run(
        None, {session.get_inputs()[0].name: inputs.numpy()}
    )
    torch.testing.assert_close(torch.from_numpy(found), model(inputs))


class Written(nn.Module):
    """Eight channels, a line of code, and a reader of what it makes."""

    def __init__(self, line, reads):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(reads, 5, 3, padding=1)
        self.line = line

    def forward(self, x):
        x = self.a(x)
        names = dict(zip('nchw', x.shape, strict=True), self=self, x=x)
        made = eval(self.line, {'torch': torch}, names)
        return self.b(sum(made) if isinstance(made, tuple) else made)


# A row of the last table: what reads it, and how many channels that has.
STAYING = {
    'x.view(n, 2, 4, h, w)': ('{}.sum(1)', 4),
    'x.split([4, 4], 1)': ('{}', 4),
    'x.new_zeros(n, 8, h, w)': ('{} + x', 8),
}


@pytest.mark.parametrize('name', STAYING)
def test_another_spelling_can_be_pruned(name):
    rows = re.findall(r'^\| (`.*`) \| (`.*`) \|$', PAGE, re.M)
    (better,) = [new for old, new in rows if old == f'`{name}`']
    reading, reads = STAYING[name]
    for spelling, frozen in ((name, True), (better.strip('`'), False)):
        model = Written(reading.format(spelling), reads)
        found = analyse(model, torch.rand(2, 3, 6, 6)).groups.items
        assert (found[0].name, found[0].frozen is not None) == ('a', frozen)


@pytest.mark.parametrize(
    'path', sorted(set(re.findall(r'\]\(([\w/]+\.md)\)', PAGE)))
)
def test_links_lead_to_files(path):
    assert (PATH.parent / path).exists()
