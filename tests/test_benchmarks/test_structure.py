# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Small sources whose numbers are known by hand."""

import ast

import pytest
import structure
from structure import (
    Source,
    between_parts,
    cycles,
    imported,
    imports_between,
    measure,
    spread,
    table,
    upward,
)

SOURCE = '''\
# Copyright (c) somebody.
# SPDX-License-Identifier: Apache-2.0
"""One line."""


class A:
    """Two
    lines."""

    def typed(self, x: int, *rest: int, key: str = '') -> int:
        """Not counted."""
        # A comment before the first statement.
        if x:  # not on a line of its own
            raise ValueError('# no comment')
        assert rest
        return x

    @staticmethod
    def bare(x) -> int:
        def inner() -> None:
            pass

        # Inside, the body is two lines, a blank one, this one, the return.
        return inner()


def only() -> None:
    """Says something."""


async def unsaid(): ...
'''


@pytest.fixture
def source():
    return Source(SOURCE)


def test_lines_comments_and_docstrings(source):
    assert source.lines == 31
    assert source.comments == 2
    assert source.docstrings == 1 + 2 + 1 + 1
    assert (source.count(ast.Raise), source.count(ast.Assert)) == (1, 1)


def test_bodies_begin_behind_the_docstring(source):
    sizes = {'typed': 4, 'bare': 5, 'inner': 1, 'only': 0, 'unsaid': 1}
    assert sorted(source.bodies()) == sorted(sizes.values())


def test_a_decorator_belongs_to_the_body():
    text = 'def f():\n    @cache\n    def g():\n        pass\n    return g\n'
    assert sorted(Source(text).bodies()) == [1, 4]


def test_annotated_means_every_argument_and_the_result(source):
    # `bare` is static, so that its x is no self; `unsaid` has no result.
    assert sorted(source.annotated()) == [False, False, True, True, True]


@pytest.mark.parametrize(
    'text',
    [
        'def f(x: int): ...',
        'def f(*x) -> int: ...',
        'def f(**x) -> int: ...',
        'def f(*, x) -> int: ...',
        'def f(x, /) -> int: ...',
        'def f(self) -> int: ...',
    ],
)
def test_each_missing_type_is_seen(text):
    assert Source(text).annotated() == [False]


def test_the_spread_is_of_sizes_that_there_are():
    assert spread(range(10, 0, -1)) == '5 / 9 / 10'
    assert spread([7]) == '7 / 7 / 7'
    assert spread([]) == '-'


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('import a.b, c', ['a.b', 'c']),
        ('from a import b, c', ['a.b', 'a.c']),
        ('from . import b', ['top.inner.b']),
        ('from ..other import b', ['top.other.b']),
        ('def f():\n    from .late import b', ['top.inner.late.b']),
        ('if TYPE_CHECKING:\n    import a', []),
        ('if typing.TYPE_CHECKING:\n    import a\nelse:\n    import b', ['b']),
    ],
)
def test_imports_of_each_form(text, names):
    assert list(imported(ast.parse(text), ['top', 'inner'])) == names


@pytest.mark.parametrize(
    ('graph', 'expected'),
    [
        ({'a': {'b'}, 'b': {'c'}, 'c': set()}, []),
        ({'a': {'b'}, 'b': {'a'}, 'c': {'a'}}, [['a', 'b']]),
        ({'a': {'b'}, 'b': {'c'}, 'c': {'a'}}, [['a', 'b', 'c']]),
        (
            {'a': {'b'}, 'b': {'a'}, 'c': {'d'}, 'd': {'c'}},
            [['a', 'b'], ['c', 'd']],
        ),
    ],
)
def test_cycles(graph, expected):
    assert cycles(graph) == expected


@pytest.mark.parametrize(
    ('counts', 'fewest'),
    [
        ({('a', 'b'): 4, ('b', 'c'): 1, ('a', 'c'): 1}, 0),
        ({('a', 'b'): 4, ('b', 'a'): 3}, 3),
        # Whichever of the three is lowest, one edge goes up; c -> a is least.
        ({('a', 'b'): 4, ('b', 'c'): 3, ('c', 'a'): 2}, 2),
        ({('a', 'b'): 1, ('b', 'a'): 1, ('c', 'd'): 5, ('d', 'c'): 2}, 3),
    ],
)
def test_the_best_order_has_the_fewest_imports_upwards(counts, fewest):
    assert upward(counts) == fewest


@pytest.fixture
def repository(tmp_path):
    """A package whose folder a imports b, which imports back once."""
    files = {
        'src/__init__.py': 'from .a.one import x\n',
        'src/a/__init__.py': '',
        'src/a/one.py': 'from ..b import two\nfrom ..b.two import y\n',
        'src/a/three.py': 'from src.b.two import y\nfrom .one import x\n',
        'src/b/__init__.py': 'from . import VERSION\n',
        'src/b/two.py': 'from src.a.one import x\nimport os\n',
        'tests/test_src/test_a.py': 'pass\n' * 6,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_name_from_a_package_is_a_module_or_in_one(repository):
    files = structure.files_below(repository / 'src')
    found = imports_between(files)
    assert found == {
        'src': {'src.a.one'},
        'src.a': set(),
        'src.a.one': {'src.b.two'},
        'src.a.three': {'src.b.two', 'src.a.one'},
        'src.b': set(),
        'src.b.two': {'src.a.one'},
    }
    # That of the package itself is above all.
    counts = {('a', 'b'): 2, ('b', 'a'): 1}
    assert between_parts(found, 'src') == counts


def test_the_numbers_of_a_folder(repository):
    numbers = measure(repository / 'src', repository)
    assert numbers['files'] == '6'
    assert numbers['files of a folder, max'] == '3'
    assert numbers['lines of a file, median / p90 / max'] == '1 / 2 / 2'
    assert numbers['fully annotated functions'] == '-'
    assert numbers['test lines : source lines'] == '0.75'  # 6 / 8
    assert numbers['import cycles between modules'] == '1'
    assert numbers['imports between folders that go upwards'] == '1'


def test_a_single_file(repository):
    numbers = measure(repository / 'src' / 'b' / 'two.py', repository)
    assert numbers['files'] == '1'
    assert numbers['imports between folders that go upwards'] == '0'


def test_the_table_has_a_column_for_each_path():
    assert table({'x': {'files': '1'}, 'y': {'files': '2'}}).splitlines() == [
        '|  | x | y |',
        '| :-- | --: | --: |',
        '| files | 1 | 2 |',
    ]


def test_the_command_prints_the_own_numbers(capsys):
    structure.main(['benchmarks/structure.py'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '|  | benchmarks/structure.py |'
    assert '| files | 1 |' in lines
