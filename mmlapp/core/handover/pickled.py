# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What the pickle of a checkpoint asks for, heard without doing it.

A pickle of a few bytes may name any size. ``torch.load`` reserves that much
memory for storages, tensors and arrays that it is asked to *make*;
``torch.save`` never asks for that: its tensors are views of storages in the
file.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

# What is named in a pickle of torch.save and called in none.
NEVER_CALLED = re.compile(
    r'(__builtin__|builtins)\.bytearray|torch\..*(Tensor|Storage)'
    r'|numpy\.ndarray'
)
# What reserves as many elements as its third argument says; an element may
# be a quarter of a byte.
SIZED = 'torch._utils._rebuild_qtensor'
PER_BYTE = 4
# What calls its first argument with its third one.
PASSES_ON = 'torch._tensor._rebuild_from_type_v2'
# Pickles of a file of torch before 1.6, before those of its storages: magic
# number, version, system, and the data.
LEGACY_COUNT = 4
# Bytes of an element by what its storage is called; of others, at least 1.
WIDTHS = {
    'ComplexDoubleStorage': 16,
    'ComplexFloatStorage': 8,
    'DoubleStorage': 8,
    'LongStorage': 8,
    'FloatStorage': 4,
    'IntStorage': 4,
    'QInt32Storage': 4,
    'HalfStorage': 2,
    'BFloat16Storage': 2,
    'ShortStorage': 2,
}


def asks_for_memory(
    file: IO[bytes] | mmap,
    size: int,
    records: Mapping[str, int] | None = None,
    count: int = 1,
) -> str | None:
    """Finds what reserves memory that the file itself does not fill.

    Args:
        file (IO): Pickles, one behind the other.
        size (int): Bytes of the whole file.
        records (Mapping[str, int], optional): Bytes of the storages in it,
            by name. Defaults to None: they are not known.
        count (int): How many pickles to look at. Defaults to 1.

    Returns:
        str or None: What is wrong; None if nothing is.
    """
    found: list[str] = []
    try:
        for _ in range(count):
            _Listener(file, size, records or {}, found).load()
    except Exception as error:
        # A forged pickle may raise anything.
        return f'{type(error).__name__}: {error}'
    return f'it asks for memory, for {found[0]}' if found else None


def legacy_asks_for_memory(path: str | Path) -> str | None:
    """The same of a file of torch before 1.6.

    Args:
        path (str or Path): The file.
    """
    # Reading from a map reserves no more than there is.
    with (
        Path(path).open('rb') as file,
        mmap(file.fileno(), 0, access=ACCESS_READ) as mapped,
    ):
        return asks_for_memory(mapped, len(mapped), count=LEGACY_COUNT)


class _Named:
    """Stands for whatever a pickle makes, and takes all that it is told."""

    path = ''

    def __init__(self, *args: Any) -> None:
        """Takes what any class could take."""

    def __call__(self, *args: Any) -> _Named:
        return _Named()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Takes an element, as a list does."""

    def extend(self, values: Iterable[Any]) -> None:
        """Takes several, as a list does."""


# The one of C reserves memory for the places that a pickle numbers.
class _Listener(pickle._Unpickler):
    """Reads a pickle; nothing that it names is imported or called."""

    def __init__(
        self,
        file: IO[bytes] | mmap,
        size: int,
        records: Mapping[str, int],
        found: list[str],
    ) -> None:
        super().__init__(file, encoding='utf-8')
        self.size, self.records, self.found = size, records, found

    def find_class(self, module: str, name: str) -> Any:
        """Returns a class that says which calls it hears of."""
        # What is made notes what it was asked for, and is nothing else: the
        # pickle goes on as if it had got what it named.
        path, listener = f'{module}.{name}', self

        class Heard(_Named):
            def __new__(cls, *args: Any) -> Any:
                listener.found += _asked(path, args, listener.size)
                return super().__new__(cls)

        Heard.path = path
        return Heard

    def persistent_load(self, pid: Any) -> _Named:
        """Compares a storage with what the file could hold."""
        if pid[0] == 'storage':
            # ('storage', kind, name of the record, device, elements)
            _, kind, name, _, elements = pid[:5]
            width = WIDTHS.get(kind.path.partition('.')[2], 1)
            if elements * width > self.records.get(name, self.size):
                self.found.append(f'{elements} elements of {kind.path}')
        return _Named()


def _asked(path: str, args: tuple[Any, ...], size: int) -> Iterator[str]:
    """What a call asks for, and those that its function would make."""
    if NEVER_CALLED.fullmatch(path):
        yield f'a new {path}'
    if path == SIZED and math.prod(args[2]) > PER_BYTE * size:
        yield f'a tensor of shape {args[2]}'
    if path == PASSES_ON:
        function, _, values = args[:3]
        yield from _asked(function.path, values, size)
