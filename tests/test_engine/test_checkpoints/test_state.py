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
    told: list[str] = []
    logger = SimpleNamespace(warning=told.append)
    weights: dict[str, Any] = {'meta': {}, 'state_dict': {}}
    resumed: Any = SimpleNamespace(_resume=True, logger=logger)
    with pytest.raises(PruningError, match=r'not the state .*load_from'):
        check_resumable(resumed, weights)
    weights['message_hub'] = {}
    check_resumable(resumed, {**weights, 'optimizer': {}})
    assert not told
    check_resumable(resumed, weights)
    assert 'as those of save_best' in told.pop()
    new: Any = SimpleNamespace(_resume=False, logger=logger)
    check_resumable(new, {'state_dict': {}})
    assert not told
