# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201
import logging
import sys
import warnings

import pytest

from mmlapp.core import PruningWarning
from mmlapp.engine.known_notes import (
    LOGGED,
    PRINTED,
    WARNED,
    known_notes_hidden,
)


@pytest.fixture
def log(caplog):
    """A logger that shows what a run shows."""
    caplog.set_level(logging.INFO)
    return logging.getLogger('a run')


def handled(caplog):
    """What a handler of level INFO lets through, as MMEngine's does."""
    return [r.getMessage() for r in caplog.records if r.levelno > 10]


def test_what_is_known_is_left_out_and_the_rest_is_not(log, caplog, capsys):
    with known_notes_hidden():
        for text in WARNED:
            warnings.warn(f'{text} and so on', UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match='unheard'):
            warnings.warn('unheard of', UserWarning, stacklevel=1)
        for text in (*LOGGED, 'unheard of'):
            log.warning(f'{text} and so on')
        for text in (*PRINTED, 'unheard of'):
            print(text)
            print(text, file=sys.stderr)
    assert handled(caplog) == ['unheard of and so on']
    assert capsys.readouterr() == ('unheard of\n', 'unheard of\n')


def test_everything_is_as_before_afterwards(log, caplog, capsys):
    before = logging.getLogRecordFactory(), warnings.formatwarning
    streams = sys.stdout, sys.stderr
    with pytest.raises(ValueError, match='x'), known_notes_hidden():
        raise ValueError('x')
    assert before == (logging.getLogRecordFactory(), warnings.formatwarning)
    assert streams == (sys.stdout, sys.stderr)
    log.warning(LOGGED[0])
    print(PRINTED[0])
    assert handled(caplog) == [LOGGED[0]]
    assert capsys.readouterr().out == f'{PRINTED[0]}\n'
    with pytest.raises(UserWarning):
        warnings.warn(WARNED[0], UserWarning, stacklevel=1)


def test_an_empty_line_is_kept(capsys):
    with known_notes_hidden():
        print()
        print(PRINTED[0])
        print()
        sys.stdout.write(f'{PRINTED[0]}\n')
        print('a', PRINTED[0])
        print(f'{PRINTED[0]}\nb')
    more = f'a {PRINTED[0]}\n{PRINTED[0]}\nb\n'
    assert capsys.readouterr().out == f'\n\n{more}'


def test_our_warnings_are_one_line_without_a_place():
    place = 'file.py', 7
    with known_notes_hidden():  # pytest records what is warned of
        ours, other = (
            warnings.formatwarning(kind('a short phase'), kind, *place)
            for kind in (PruningWarning, UserWarning)
        )
    assert ours == 'warning: a short phase\n'
    assert other.startswith('file.py:7: UserWarning: a short phase')


def test_a_stream_is_otherwise_what_it_was(monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    with known_notes_hidden():
        assert sys.stdout.isatty()
