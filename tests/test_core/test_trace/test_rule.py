# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Rules carry flags: the tracer asks them and knows no rule by name."""

import torch
from torch import nn
from torch.nn import functional

from mmlapp.core.trace import trace
from mmlapp.core.trace.rule import Rule, rules_of_aten
from mmlapp.core.trace.rules import RULES


def follow(tracer, call):
    pass


def test_one_rule_for_each_name():
    rules = rules_of_aten({follow: 'one two'})
    assert rules == {'aten::one': Rule(follow), 'aten::two': Rule(follow)}


def test_most_rules_carry_no_mask():
    assert not Rule(follow).carries_mask(None)
    (rule,) = rules_of_aten({follow: 'one'}, lambda call: True).values()
    assert rule.carries_mask(None)


def test_a_rule_of_another_name_may_carry_the_mask(
    net, conv, image, monkeypatch
):
    """By default what reads a convolution beside its norm masks it too."""

    def forward(m, x):
        x = m.a(x)
        return m.b(m.norm(x) + x.sin())

    model = net(forward, a=conv(3, 8), norm=nn.BatchNorm2d(8), b=conv(8, 5))
    assert masked(model, image) == {'a', 'norm'}
    mine = Rule(follow, carries_mask=lambda call: True)
    monkeypatch.setitem(RULES, 'aten::sin', mine)
    assert masked(model, image) == {'norm'}


def test_a_scale_that_the_network_computes_carries_none(net, conv, image):
    """Only what is a parameter can be masked."""

    def forward(m, x):
        scale = m.scale * 2
        y = functional.batch_norm(
            m.a(x), torch.zeros(8).double(), torch.ones(8).double(), scale
        )
        return m.b(y)

    model = net(forward, a=conv(3, 8), scale=torch.rand(8), b=conv(8, 5))
    assert masked(model, image) == {'a'}


def masked(model, image):
    """Modules before the last of which a tensor is masked."""
    sites = trace(model, lambda: model(image)).masked
    return {site.module for site in sites} - {'b'}
