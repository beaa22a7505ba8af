# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import torch
from torch import nn

from mmlapp.core import analyse
from mmlapp.core.analysis import verify
from mmlapp.core.analysis.trial import Trial


def test_all_checks_pass_with_the_same_groups(conv, monkeypatch):
    """What passed with other groups is tried again."""
    runs = []
    original = Trial.run

    def run(self, groups, chosen, check, compare=True):
        failure = original(self, groups, chosen, check, compare)
        if len(chosen) == len(groups.prunable):
            runs.append((id(groups), check, failure is None))
        return failure

    monkeypatch.setattr(verify.Trial, 'run', run)
    a, b = conv(3, 8), conv(8, 5)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.a, self.b = conv(3, 3), a, b

        def forward(self, x):
            y = self.a(self.first(x))
            return self.b(y * (2 if int(y.shape[1]) == 1 else 1))

    model = Net()
    groups = analyse(model, torch.rand(2, 3, 8, 8)).groups
    assert [g.name for g in groups.prunable] == ['first']
    last = [check for i, check, passed in runs if i == id(groups) and passed]
    assert len(set(last)) == len(last) == 5
    assert not all(passed for _, _, passed in runs)
