# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from typing import Any

import pytest

from mmlapp.core import PruningError
from mmlapp.engine.checkpoints.state import check_version


@pytest.mark.parametrize(
    ('entry', 'found'), [({'version': 7}, '7'), ({}, 'None'), ('x', 'None')]
)
def test_other_versions_are_named(entry: Any, found: str) -> None:
    text = f'has thing of version {found}: this release reads version 1'
    with pytest.raises(PruningError, match=text):
        check_version('thing', entry, 1)
    check_version('thing', {'version': 1}, 1)
