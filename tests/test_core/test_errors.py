# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest

from mmlapp.core import LayerRefusedError, PruningError, PruningWarning


def test_one_kind_of_error_for_users():
    assert issubclass(PruningError, ValueError)
    assert issubclass(LayerRefusedError, PruningError)
    assert issubclass(PruningWarning, UserWarning)


def test_it_is_caught_as_a_value_error():
    with pytest.raises(ValueError, match='width=0'):
        raise PruningError('width=0: expected more')
