# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Small networks, and the oracle that all tests of the core share."""

import copy
import warnings
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from mmlapp.core import analyse, attach, narrow

# What the budget counts; fvcore also counts norms and pooling.
COUNTED = ('conv', 'linear', 'addmm', 'mm', 'bmm', 'matmul', 'einsum')


class Net(nn.Module):
    """A network written as a function of its parts and the input."""

    def __init__(self, function, parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, (nn.Module, nn.Parameter)):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x):
        return self.function(self, x)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def net():
    """Makes a network in float64, where agreement can be near exact."""

    def make(function, **parts):
        return Net(function, parts).double()

    return make


@pytest.fixture
def conv():
    """Makes a 3x3 convolution that keeps the size."""

    def make(inputs, outputs, size=3, **arguments):
        if 'padding' not in arguments:
            arguments['padding'] = size // 2
        return nn.Conv2d(inputs, outputs, size, **arguments)

    return make


@pytest.fixture
def image():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def random_statistics(model):
    """Norms that shift, scale and have seen data; biases that count."""
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, 'running_var', None) is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5)
            if isinstance(getattr(module, 'bias', None), nn.Parameter):
                module.bias.normal_(0, 0.3)
    return model


@pytest.fixture
def randomise():
    return random_statistics


def random_masks(pruner, keep=0.5):
    """Keeps a random share of every group, at least its floor."""
    mask = torch.zeros(len(pruner.gate), dtype=torch.bool)
    start = 0
    for info in pruner.groups:
        count = max(info.floor, int(info.size * keep))
        mask[start + torch.randperm(info.size)[:count]] = True
        start += info.size
    pruner.set_mask(mask)
    pruner.active = True


@pytest.fixture
def mask_randomly():
    return random_masks


def torch_macs(model, *inputs):
    """Multiply-adds as torch counts them below the dispatcher."""
    # What attention runs as one operator is not counted.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 2


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def count_macs():
    return torch_macs


@pytest.fixture
def count_all_macs():
    """With those of the kernel of attention, which torch's counter lacks."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {kernel: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}

    def count(model, x):
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        counter = FlopCounterMode(display=False, custom_mapping=mapping)
        with counter, torch.no_grad():
            model(x)
        torch.backends.mha.set_fastpath_enabled(fused)
        return counter.get_total_flops() / 2

    return count


@pytest.fixture
def fvcore_macs():
    """Multiply-adds of convolution, linear and matrix-product operators."""

    def count(model, x):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of the jit tracer
            analysis = FlopCountAnalysis(model, x)
            analysis.unsupported_ops_warnings(False)
            analysis.uncalled_modules_warnings(False)
            found = analysis.by_operator()
        return sum(found[name] for name in COUNTED)

    return count


class Reads(nn.Module):
    """Reads a parameter of a layer as forwards do."""

    def forward(self, layer, name='weight'):
        return getattr(layer, name)


@pytest.fixture
def read():
    return Reads()


def relative_error(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture
def agree():
    """Masked, narrowed and counted: three ways that must say the same.

    Removes half of every group, at random, and returns what came out for
    further questions. ``uncounted`` are multiply-adds, dense and narrowed,
    that torch's counter does not see.
    """

    def check(
        model, x, tolerance=1e-10, keep=0.5, uncounted=(0, 0), **arguments
    ):
        random_statistics(model)
        model.eval()
        with torch.no_grad():
            dense = model(x)
            dense_macs = torch_macs(model, x)
            stored = count_parameters(model)
            pruner = attach(model, x, **arguments)
            assert pruner.cost('flops').dense == dense_macs + uncounted[0]
            assert pruner.cost('parameters').dense == stored
            random_masks(pruner, keep)
            masked = model(x)
            plan = pruner.plan()
            slim = narrow(copy.deepcopy(model), plan)
            narrowed = slim(x)
        assert narrowed.shape == dense.shape
        assert relative_error(narrowed, masked) < tolerance
        assert relative_error(masked, dense) > 1e-3, 'masks did nothing'
        slim_macs = torch_macs(slim, x) + uncounted[1]
        assert plan.costs['flops']['pruned'] == pytest.approx(slim_macs)
        stored = count_parameters(slim)
        assert plan.costs['parameters']['pruned'] == pytest.approx(stored)
        sizes = {info.name: info.size for info in pruner.groups}
        return SimpleNamespace(
            model=model, pruner=pruner, plan=plan, slim=slim, groups=sizes
        )

    return check


@pytest.fixture
def frozen():
    """Maps the layers that may not be pruned to the reasons for it."""

    def reasons(model, x, **arguments):
        analysis = analyse(model.eval(), lambda: model(x), **arguments)
        return {
            group.name: group.frozen
            for group in analysis.groups.items
            if group.frozen is not None
        }

    return reasons


@pytest.fixture
def make(net, conv):
    """With a norm, without one, and a last layer that stays."""

    def build():
        return net(
            lambda m, x: m.d(m.c(m.norm(m.b(m.a(x).relu())).relu()).relu()),
            a=conv(3, 8),
            b=conv(8, 12),
            norm=nn.BatchNorm2d(12),
            c=conv(12, 16),
            d=conv(16, 5),
        ).float()

    return build


@pytest.fixture
def model(make):
    return make()


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def pruner(model, images):
    return attach(model, images)


@pytest.fixture
def plain(net, conv):
    """Convolutions with biases and without norms."""

    def make():
        return net(
            lambda m, x: m.d(m.c(m.b(m.a(x)).relu()).relu()),
            a=conv(3, 8),
            b=conv(8, 16, stride=2),
            c=conv(16, 12, dilation=2, padding=2, bias=False),
            d=conv(12, 5),
        )

    return make


@pytest.fixture
def normed(net, conv):
    """A residual block with norms and a zero-padded shortcut."""

    def forward(m, x):
        x = m.stem_norm(m.stem(x)).relu()
        y = m.norm1(m.conv1(x)).relu()
        y = m.norm2(m.conv2(y))
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 8))
        return m.head((y + short).relu().mean((2, 3)))

    def make():
        return net(
            forward,
            stem=conv(3, 8, bias=False),
            stem_norm=nn.BatchNorm2d(8),
            conv1=conv(8, 16, stride=2, bias=False),
            norm1=nn.BatchNorm2d(16),
            conv2=conv(16, 16, bias=False),
            norm2=nn.BatchNorm2d(16),
            head=nn.Linear(16, 5),
        )

    return make


def counts_of(pruner):
    """Every number of channels of every group, the first ones of each."""
    ranges = [range(g.floor, g.size + 1) for g in pruner.groups]
    for counts in product(*ranges):
        masks = [
            torch.arange(group.size) < count
            for group, count in zip(pruner.groups, counts, strict=True)
        ]
        yield counts, torch.cat(masks)


@pytest.fixture
def agree_everywhere():
    """Masked and narrowed with every number of channels of every group.

    Returns the floors, for further questions.
    """

    def check(model, x, train=False):
        pruner = attach(random_statistics(model).eval(), x)
        model.train(train)
        for counts, mask in counts_of(pruner):
            pruner.set_mask(mask)
            with torch.no_grad():
                masked = model(x)
                slim = narrow(copy.deepcopy(model), pruner.plan())(x)
            assert slim.shape == masked.shape
            assert relative_error(slim, masked) < 1e-10, counts
        return {group.name: group.floor for group in pruner.groups}

    return check
