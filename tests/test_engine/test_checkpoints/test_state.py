# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace
from typing import Any

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.state import check_resumable, check_version


@pytest.mark.parametrize(
    ('entry', 'found'), [({'version': 7}, '7'), ({}, 'None'), ('x', 'None')]
)
def test_other_versions_are_named(entry: Any, found: str) -> None:
    text = f'has thing of version {found}: this release reads version 1'
    with pytest.raises(PruningError, match=text):
        check_version('thing', entry, 1)
    check_version('thing', {'version': 1}, 1)


def test_weights_alone_are_no_training_to_go_on_with() -> None:
    weights: dict[str, Any] = {'meta': {}, 'state_dict': {}}
    resumed: Any = SimpleNamespace(_resume=True)
    with pytest.raises(PruningError, match=r'not the state .*load_from'):
        check_resumable(resumed, weights)
    check_resumable(resumed, {**weights, 'message_hub': {}})
    new: Any = SimpleNamespace(_resume=False)
    check_resumable(new, weights)
