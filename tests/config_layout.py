# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""MMEngine lays out every config that it logs or writes, with yapf.

It does so again for each checkpoint, which is half of the time of a short
run. What a config says does not depend on it.
"""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from yapf.yapflib import yapf_api

_FORMAT = yapf_api.FormatCode


def _check_syntax(text: str, **style: Any) -> tuple[str, bool]:
    """Answers as ``FormatCode`` does: the text, and whether it changed."""
    ast.parse(text)
    return text, False


@contextmanager
def no_layout() -> Iterator[None]:
    """Configs are valid Python on long lines."""
    with patch.object(yapf_api, 'FormatCode', _check_syntax):
        yield


@contextmanager
def layout() -> Iterator[None]:
    """Configs look as they do for users."""
    with patch.object(yapf_api, 'FormatCode', _FORMAT):
        yield
