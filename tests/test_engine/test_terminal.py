# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import io
import sys

import pytest
from rich.table import Table

from mmlapp.engine import terminal
from mmlapp.engine.terminal import console, telling


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_is_wide_enough_for_a_layer():
    file = io.StringIO()
    line = 'x' * 100 + ' 1.5 [a] ' + 'y' * 50
    console(file).print(line)
    assert file.getvalue() == f'{line}\n'


@pytest.mark.parametrize('name', ['x[red]y', 'a[/b]', 'runs:fire:'])
def test_a_name_is_shown_as_it_is(name):
    """Rich would take [red] for a colour, and [/b] for a mistake."""
    file, table = io.StringIO(), Table()
    table.add_row(name)
    console(file).print(f'wrote {name}')
    console(file).print(table)
    assert file.getvalue().startswith(f'wrote {name}\n')
    assert file.getvalue().count(name) == 2


def test_a_terminal_has_its_own_width(monkeypatch):
    monkeypatch.setenv('COLUMNS', '70')
    assert console(Terminal()).width == 70
    assert console(io.StringIO()).width == terminal.PIPE_WIDTH > 150


def test_standard_output_is_the_default(capsys):
    console().print('here')
    assert capsys.readouterr().out == 'here\n'


def test_standard_output_is_for_results_while_a_tool_tells(capsys):
    with telling() as tell:
        sys.stdout.write('a model was imported')
        tell('building the model')
    sys.stdout.write('result\n')
    found = capsys.readouterr()
    assert found.out == 'result\n'
    assert 'a model was imported' in found.err
