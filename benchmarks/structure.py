# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The numbers of the code that are watched, as a Markdown table.

    python benchmarks/structure.py
    python benchmarks/structure.py mmlapp/core/trace benchmarks/zoo

Sizes are lines. A function's body is what follows its docstring, functions
inside it included; a comment counts where it has a line of its own and is not
the licence header. Imports are those that run: what only type checkers see is
left out, what a function imports is not.
"""

from __future__ import annotations

import argparse
import ast
import io
import math
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATHS = 'mmlapp/core', 'mmlapp/engine'
HEADER = '# Copyright', '# SPDX-License-Identifier'

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.Module | ast.ClassDef | Function
# What every module imports, all by their full names.
Imports = Mapping[str, set[str]]


@dataclass(frozen=True)
class Source:
    """A file of Python.

    Args:
        text (str): What is in it.
    """

    text: str

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.text.splitlines())

    @property
    def comments(self) -> int:
        """Lines that hold a comment alone, without the licence header."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(
            token.type == tokenize.COMMENT
            and not token.line[: token.start[1]].strip()
            and not token.string.startswith(HEADER)
            for token in tokens
        )

    @property
    def docstrings(self) -> int:
        """Lines of all docstrings."""
        return sum(
            (node.end_lineno or node.lineno) - node.lineno + 1
            for item in ast.walk(self.tree)
            if isinstance(item, Definition)
            for node in item.body[: has_docstring(item)]
        )

    def count(self, kind: type[ast.AST]) -> int:
        """Nodes of one kind, such as ``ast.Raise``."""
        return sum(isinstance(node, kind) for node in ast.walk(self.tree))

    def bodies(self) -> list[int]:
        """Lines of every function's body, without its docstring."""
        return [body_lines(function) for function, _ in functions(self.tree)]

    def annotated(self) -> list[bool]:
        """Whether every function has types for all that goes in and out."""
        return [is_annotated(*found) for found in functions(self.tree)]


def has_docstring(item: Definition) -> bool:
    """Whether a module, class or function begins with a docstring."""
    return ast.get_docstring(item, clean=False) is not None


def functions(tree: ast.AST) -> Iterator[tuple[Function, bool]]:
    """All functions, and whether each is a method."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield child, isinstance(node, ast.ClassDef)


def body_lines(function: Function) -> int:
    """Lines from the first statement behind the docstring to the last one."""
    body = function.body[has_docstring(function) :]
    if not body:
        return 0
    first = body[0]
    decorators = getattr(first, 'decorator_list', [])
    begin = min(node.lineno for node in (first, *decorators))
    return (function.end_lineno or begin) - begin + 1


def is_annotated(function: Function, method: bool) -> bool:
    """Whether all arguments but the first of a method have types."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    static = any(
        isinstance(node, ast.Name) and node.id == 'staticmethod'
        for node in function.decorator_list
    )
    if method and not static:
        positional = positional[1:]
    rest = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return function.returns is not None and all(
        arg.annotation is not None
        for arg in (*positional, *args.kwonlyargs, *rest)
    )


def files_below(path: Path) -> list[Path]:
    """All files of Python in a folder, or the file itself."""
    return sorted(path.rglob('*.py')) if path.is_dir() else [path]


def module_name(path: Path) -> str:
    """Name of the module in a file; its package begins where folders do."""
    parts = [] if path.name == '__init__.py' else [path.stem]
    folder = path.parent
    while (folder / '__init__.py').exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return '.'.join(parts)


def imported(tree: ast.AST, package: Sequence[str]) -> Iterator[str]:
    """Full names of what a module imports, except for type checkers.

    Args:
        tree (ast.AST): Its syntax tree.
        package (Sequence[str]): Parts of the name of its package.

    Yields:
        str: What a name is imported from and the name behind it, which may
        be a module or something in one.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
            yield from imported(ast.Module(node.orelse, []), package)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level]
            parts = [
                *(base if node.level else ()),
                *filter(None, [node.module]),
            ]
            yield from ('.'.join([*parts, a.name]) for a in node.names)
        yield from imported(node, package)


def imports_between(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Which of the modules in some files imports which other one.

    Args:
        paths (Iterable[Path]): The files.

    Returns:
        dict[str, set[str]]: By full name; of a package that of its
        ``__init__.py``.
    """
    files = {module_name(path): path for path in paths}
    found = {}
    for name, path in files.items():
        package = name.split('.')
        if path.name != '__init__.py':
            package = package[:-1]
        tree = ast.parse(path.read_text(encoding='utf-8'))
        # Of `a.b.c` the module a.b.c, or else a.b, which has a name c.
        targets = {
            target if target in files else target.rpartition('.')[0]
            for target in imported(tree, package)
        }
        found[name] = targets & files.keys() - {name}
    return found


def cycles(imports: Imports) -> list[list[str]]:
    """Modules that import each other, directly or through others.

    Args:
        imports (Mapping[str, set[str]]): What every module imports.

    Returns:
        list[list[str]]: Each cycle's modules in alphabetical order; cycles
        that share a module are one.
    """
    reached = {name: _reachable(name, imports) for name in imports}
    found = {
        tuple(sorted(b for b in reached[a] if a in reached.get(b, ())))
        for a in imports
        if a in reached[a]
    }
    return [list(cycle) for cycle in sorted(found)]


def _reachable(start: str, imports: Imports) -> set[str]:
    """What a module imports, and what that imports, and so on."""
    seen: set[str] = set()
    waiting = [*imports[start]]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports.get(name, ())
    return seen


def part_of(module: str, top: str) -> str:
    """The folder or file right below a package that a module lies in.

    Args:
        module (str): Full name of the module.
        top (str): Full name of the package; empty if there is none.

    Returns:
        str: Empty for the package's own ``__init__.py``.
    """
    inner = module.removeprefix(top).lstrip('.')
    return inner.partition('.')[0]


def between_parts(imports: Imports, top: str) -> dict[tuple[str, str], int]:
    """How often modules of one part of a package import from another one.

    Args:
        imports (Mapping[str, set[str]]): What every module imports.
        top (str): Full name of the package.

    Returns:
        dict[tuple[str, str], int]: By importing and imported part. The
        ``__init__.py`` of the package, above all parts, is left out.
    """
    found: dict[tuple[str, str], int] = {}
    for module, targets in imports.items():
        for target in targets:
            pair = part_of(module, top), part_of(target, top)
            if '' not in pair and pair[0] != pair[1]:
                found[pair] = found.get(pair, 0) + 1
    return found


def upward(counts: Mapping[tuple[str, str], int]) -> int:
    """Fewest imports between parts that go upwards, in the best order.

    Args:
        counts (Mapping): Imports by importing and imported part.

    Returns:
        int: 0 if parts can be ordered so that each imports lower ones alone.
    """
    graph: dict[str, set[str]] = {}
    for a, b in counts:
        graph.setdefault(a, set()).add(b)
        graph.setdefault(b, set())
    total = 0
    for cycle in cycles(graph):
        total += min(
            sum(
                counts.get((low, high), 0)
                for i, low in enumerate(order)
                for high in order[i + 1 :]
            )
            for order in permutations(cycle)
        )
    return total


def share(part: int, whole: int) -> str:
    """A share in percent."""
    return f'{100 * part / whole:.1f} %' if whole else '-'


def spread(sizes: Iterable[int]) -> str:
    """Median, ninth decile and maximum, each a size that there is."""
    ordered = sorted(sizes)
    if not ordered:
        return '-'
    middle, most = (
        ordered[math.ceil(q * len(ordered) / 10) - 1] for q in (5, 9)
    )
    return f'{middle} / {most} / {ordered[-1]}'


def tests_of(path: Path, root: Path) -> Path:
    """Where the tests of a folder or file lie."""
    parts = [
        f'test_{p}' for p in path.relative_to(root).parts if p != 'mmlapp'
    ]
    return root.joinpath('tests', *parts)


def measure(path: Path, root: Path = ROOT) -> dict[str, str]:
    """The numbers of a folder or a file, by what they are.

    Args:
        path (Path): The folder or file.
        root (Path): Of the repository. Defaults to this one's.
    """
    files = files_below(path)
    sources = [Source(file.read_text(encoding='utf-8')) for file in files]
    lines = sum(source.lines for source in sources)
    folders = [file.parent for file in files]
    tests = tests_of(path, root)
    test_lines = sum(
        Source(file.read_text(encoding='utf-8')).lines
        for file in (files_below(tests) if tests.exists() else [])
    )
    annotated = [known for source in sources for known in source.annotated()]
    imports = imports_between(files)
    top = module_name(path / '__init__.py') if path.is_dir() else ''
    return {
        'files': str(len(files)),
        'files of a folder, max': str(max(map(folders.count, folders))),
        'lines of a file, median / p90 / max': spread(
            source.lines for source in sources
        ),
        'lines of a body, median / p90 / max': spread(
            size for source in sources for size in source.bodies()
        ),
        'comments': share(sum(s.comments for s in sources), lines),
        'docstrings': share(sum(s.docstrings for s in sources), lines),
        'raise : assert': ' : '.join(
            str(sum(source.count(kind) for source in sources))
            for kind in (ast.Raise, ast.Assert)
        ),
        'fully annotated functions': share(sum(annotated), len(annotated)),
        'test lines : source lines': f'{test_lines / lines:.2f}',
        'import cycles between modules': str(len(cycles(imports))),
        'imports between folders that go upwards': str(
            upward(between_parts(imports, top))
        ),
    }


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Numbers of several paths as a Markdown table.

    Args:
        columns (Mapping): Numbers by path.
    """
    rows = [['', *columns], [':--', *['--:'] * len(columns)]]
    for name in next(iter(columns.values())):
        rows.append([name, *(column[name] for column in columns.values())])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('paths', nargs='*', default=PATHS, metavar='PATH')
    names = parser.parse_args(argv).paths
    print(table({name: measure((ROOT / name).resolve()) for name in names}))


if __name__ == '__main__':
    main()
