# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import errno
from email.message import Message
from urllib.error import HTTPError, URLError

import pytest
from mmengine.config.lazy import LazyObject
from mmengine.registry import Registry

from mmlapp.core import PruningError
from mmlapp.engine import failures
from mmlapp.engine.failures import is_failure, tells_failures

NETS = Registry('net', scope='mmlapp')


@NETS.register_module()
class Net:
    def __init__(self, width):
        {4: 'narrow'}[width].startswith()


def failing(error):
    @tells_failures
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (PruningError('divisor=0:\n  too small'), 'divisor=0: too small'),
        (FileNotFoundError(2, 'No such file', 'a.py'), '[Errno 2] No such f'),
        (IsADirectoryError('a'), 'a'),
        (OSError(errno.ENOSPC, 'No space left'), '[Errno 28] No space left'),
        (URLError('no such name'), 'a file could not be fetched (no such na'),
        (
            HTTPError('http://a/b.pth', 404, 'Not Found', Message(), None),
            'http://a/b.pth could not be fetched (Not Found): download it, a',
        ),
    ],
)
def test_errors_of_users_are_one_line(error, text):
    with pytest.raises(SystemExit) as info:
        failing(error)()
    assert info.value.code.startswith(f'error: {text}')
    assert '\n' not in info.value.code
    assert info.value.__cause__ is error


@pytest.mark.parametrize('kind', [ValueError, KeyError, TypeError, OSError])
def test_bugs_keep_their_traceback(kind):
    with pytest.raises(kind):
        failing(kind('bug'))()


@pytest.mark.parametrize(
    ('config', 'text'),
    [
        (dict(type='Nett'), 'Nett is not in the mmlapp::net registry'),
        (dict(type='Net', wide=3), "unexpected keyword argument 'wide'"),
        (dict(type='Net'), "missing 1 required positional argument: 'width'"),
    ],
)
def test_types_and_arguments_of_configs_are_of_users(config, text):
    @tells_failures
    def main():
        NETS.build(config)

    with pytest.raises(SystemExit, match=text):
        main()


@pytest.mark.parametrize(
    ('module', 'name'), [('mmlapp.core', 'Prunner'), ('mmlap.core', 'Pruner')]
)
def test_imports_of_configs_in_plain_python_are_of_users(module, name):
    found = LazyObject(module, name, 'a.py, line 3')

    @tells_failures
    def main():
        found.build()

    with pytest.raises(SystemExit, match=r'Failed to import .* a\.py, line 3'):
        main()


def test_who_interrupts_sees_no_traceback(capsys):
    with pytest.raises(SystemExit) as info:
        failing(KeyboardInterrupt())()
    assert info.value.code == 130
    assert info.value.__suppress_context__
    assert capsys.readouterr().err == 'interrupted\n'


@pytest.mark.parametrize('width', [3, 4])
def test_what_fails_within_a_type_is_a_bug(width):
    with pytest.raises((KeyError, TypeError)) as info:
        NETS.build(dict(type='Net', width=width))
    assert not is_failure(info.value)


@pytest.mark.parametrize('rank', ['0', '3'])
def test_one_process_of_a_machine_tells(monkeypatch, rank):
    monkeypatch.setenv('LOCAL_RANK', rank)
    with pytest.raises(SystemExit) as info:
        failing(PruningError('no'))()
    assert info.value.code == ('error: no' if rank == '0' else 1)


class Store:
    """What the processes of a run share."""

    def __init__(self):
        self.value = ''

    def compare_set(self, key, expected, desired):
        self.value = self.value or desired
        return self.value.encode()


def test_the_first_process_of_a_group_tells(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    group = failures.distributed
    ranks = iter([2, 0, 1])
    store = Store()
    monkeypatch.setattr(group, 'is_initialized', lambda: True)
    monkeypatch.setattr(group, 'get_rank', lambda: next(ranks))
    monkeypatch.setattr(
        group.distributed_c10d, '_get_default_store', lambda: store
    )
    codes = []
    for _ in range(3):
        with pytest.raises(SystemExit) as info:
            failing(PruningError('no'))()
        codes.append(info.value.code)
    assert codes == ['error: no', 1, 1]
