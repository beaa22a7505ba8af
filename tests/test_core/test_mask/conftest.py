# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def source():
    """A gate of eight channels: some closed, some half open."""
    gate = torch.tensor([0, 1, 0.5, 0, 1, 0.25, 1, 0], dtype=torch.float64)
    return SimpleNamespace(active=True, factor=gate.requires_grad_())
