# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How command-line tools fail: one line for users, a traceback for bugs."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.error import URLError

import mmengine.registry.build_functions as build
from mmengine.config import lazy
from torch import distributed

from mmlapp.core import PruningError

# What a user gave cannot be used, or is not there.
FAILURES = (
    PruningError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    URLError,
)
# No room left, or none for this user, or a file system that is read-only.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# Where MMEngine raises what is wrong with a config, and as what.
OF_CONFIGS = (
    (build.__file__, (KeyError, TypeError)),
    (lazy.__file__, (ImportError,)),
)
LOCAL_RANKS = 'LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'


def tells_failures(main: Callable[..., None]) -> Callable[..., None]:
    """Makes the function of a tool end with one line where a user erred.

    The exit code is 1, and 130 where it was interrupted. Of several processes
    all exit, and one tells. Other errors are bugs and keep their traceback.

    Args:
        main (Callable): The function.
    """

    @wraps(main)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            main(*args, **kwargs)
        except Exception as error:
            if not is_failure(error):
                raise
            text = f'error: {failure_text(error)}'
            raise SystemExit(text if _tells() else 1) from error
        except KeyboardInterrupt:
            if _tells():
                sys.stderr.write('interrupted\n')
            # As shells count it: 128 and the number of the signal.
            raise SystemExit(128 + signal.SIGINT) from None

    return run


def is_failure(error: Exception) -> bool:
    """Whether an error is about what a user gave.

    Args:
        error (Exception): As it was caught, with its traceback.
    """
    full = isinstance(error, OSError) and error.errno in FULL
    return isinstance(error, FAILURES) or full or _is_of_config(error)


def _is_of_config(error: Exception) -> bool:
    """A type or an argument of a config that does not exist.

    MMEngine looks types up and calls them in one function, and what a config
    in plain Python imports in another. What fails deeper within is no mistake
    of the config alone.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(
        isinstance(error, kinds) and Path(frames[-1].filename) == Path(file)
        for file, kinds in OF_CONFIGS
    )


def failure_text(error: Exception) -> str:
    r"""Returns the message of an error in one line.

    Args:
        error (Exception): The error.

    Examples:
        >>> failure_text(KeyError('Net is not in the registry.\n  See ...'))
        'Net is not in the registry. See ...'
    """
    if isinstance(error, URLError):
        # HTTPError tells the address, others do not.
        place = getattr(error, 'url', None) or 'a file'
        return (
            f'{place} could not be fetched ({error.reason}): download it, and '
            'give its path'
        )
    # A KeyError shows its message in quotes.
    plain = error.args[0] if isinstance(error, KeyError) else error
    return ' '.join(str(plain).split())


def _tells() -> bool:
    """Whether no other process of the run tells the same."""
    if not distributed.is_initialized():
        ranks = (os.environ.get(name) for name in LOCAL_RANKS)
        return next((int(rank) for rank in ranks if rank), 0) == 0
    rank = str(distributed.get_rank())
    store = distributed.distributed_c10d._get_default_store()
    try:
        # Whoever comes first sets the key, finds its own rank, and tells.
        return store.compare_set('mmlapp_failed', '', rank).decode() == rank
    except RuntimeError:
        # The process that keeps the store has failed, and has told.
        return False
