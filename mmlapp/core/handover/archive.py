# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whether a file is a whole archive of ``torch.save``, asked before loading.

``torch.load`` looks at no checksum: a flipped bit becomes another weight.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch

from .pickled import asks_for_memory

# First bytes of an archive, and of the pickles of torch before 1.6.
ARCHIVE, LEGACY = b'PK\x03\x04', b'\x80'
SERIALIZATION_ID = '.data/serialization_id'
# What zipfile raises where a part of a file is wrong, such as OSError for an
# offset and RuntimeError for a flag that says that there is a password.
UNREADABLE = (
    BadZipFile,
    EOFError,
    IndexError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)


def is_archive(path: str | Path) -> bool:
    """Whether a file begins as ``torch.save`` begins archives.

    Args:
        path (str or Path): The file.
    """
    return _head(path).startswith(ARCHIVE)


def is_legacy(path: str | Path) -> bool:
    """Whether a file begins as a pickle of torch before 1.6.

    Args:
        path (str or Path): The file.
    """
    return _head(path).startswith(LEGACY)


def describe(path: str | Path) -> str:
    """Says what a file is that is no archive.

    Args:
        path (str or Path): The file.
    """
    head = _head(path)
    if not head:
        return 'it is empty'
    # The length of a table in eight bytes, then the table as JSON.
    length = int.from_bytes(head[:8], 'little')
    if head[8:9] == b'{' and length <= Path(path).stat().st_size - 8:
        return (
            'it is a file of safetensors, which load_slim reads as '
            'safetensors.torch.load_file(path)'
        )
    if is_legacy(path):
        return 'it is a pickle, as torch before 1.6 wrote it'
    try:
        head.decode()
    except UnicodeDecodeError:
        return 'it does not begin as what torch.save writes'
    return 'it is a text, such as a config or a channel plan'


def find_damage(path: str | Path) -> str | None:
    """Compares the records of an archive with their checksums.

    Reads one record after the other, and never more of a record than the
    file has.

    Args:
        path (str or Path): An archive.

    Returns:
        str or None: What is wrong with it; None if it is whole.
    """
    try:
        with ZipFile(path) as archive:
            records, size = archive.infolist(), Path(path).stat().st_size
            # What is cheap to see first: only records that the file can hold
            # are read, and only whole ones are looked into.
            return (
                _refused(records, size)
                or _first_damaged(archive)
                or _mixed_up(archive, records)
                or _forged(archive, records, size)
            )
    except UNREADABLE as error:
        return f'{type(error).__name__}: {error}'


def _head(path: str | Path) -> bytes:
    with Path(path).open('rb') as file:
        return file.read(64)


def _refused(records: Sequence[ZipInfo], size: int) -> str | None:
    """What torch.save does not write, such as a record twice."""
    names = [record.filename for record in records]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        return f'it has the record {twice} twice'
    for record in records:
        if record.compress_type != ZIP_STORED:
            return f'its record {record.filename} is compressed'
    # What lies in several records would count several times.
    if sum(record.file_size for record in records) > size:
        return 'its records are longer than the file'
    if not any(name.endswith('/data.pkl') for name in names):
        return 'it is an archive, but none of torch.save'
    return None


def _first_damaged(archive: ZipFile) -> str | None:
    name = archive.testzip()
    return None if name is None else f'its record {name} is damaged'


def _mixed_up(archive: ZipFile, records: Sequence[ZipInfo]) -> str | None:
    """Whether records lie elsewhere, or are others than were written."""
    ordered = sorted(records, key=lambda record: record.header_offset)
    numbers = [
        record.filename.rpartition('/')[2]
        for record in ordered
        if record.filename.rpartition('/')[0].endswith('/data')
    ]
    # Storages are written by number, by some releases 0, 1, 10, 11, 2 ...
    if numbers not in (sorted(numbers), sorted(numbers, key=_by_number)):
        return 'its records are not in order'
    if _knows_checksum() and not _is_as_noted(archive, ordered):
        return 'its records are not those that were written together'
    return None


def _by_number(number: str) -> tuple[int, str]:
    # '2' before '10', without reading thousands of digits.
    return len(number), number


def _is_as_noted(archive: ZipFile, ordered: Sequence[ZipInfo]) -> bool:
    """Whether all records have the checksum that one more of them notes.

    True if none does: there was none before torch 2.1.
    """
    noted = b''.join(
        archive.read(record)
        for record in ordered
        if record.filename.endswith(SERIALIZATION_ID)
    )
    # Twenty digits for the names of the records, twenty for what they hold.
    if len(noted) != 40 or not noted.isdigit():
        return True
    return int(noted[20:]) == _checksum(ordered)


def _checksum(ordered: Sequence[ZipInfo]) -> int:
    """The checksum over all records, as torch computes it.

    It combines their CRC-32 in the order of writing,
    h <- h ^ (crc + 0x9e3779b9 + (h << 6) + (h >> 2)) in 64 bits, and leaves
    out empty ones, such as those of tensors without elements.
    """
    total = 0
    for record in ordered:
        if not record.file_size or record.filename.endswith(SERIALIZATION_ID):
            continue
        # boost's hash_combine; 0x9e3779b9 is 2^32 over the golden ratio.
        mixed = record.CRC + 0x9E3779B9 + (total << 6) + (total >> 2)
        total = (total ^ mixed) & (2**64 - 1)
    return total


def _forged(
    archive: ZipFile, records: Sequence[ZipInfo], size: int
) -> str | None:
    """Whether the pickle asks for memory of a size that it just names."""
    # archive/data/0 -> 0, as the pickle names the storage.
    sizes = {
        record.filename.rpartition('/')[2]: record.file_size
        for record in records
        if record.filename.rpartition('/')[0].endswith('/data')
    }
    for record in records:
        if record.filename.endswith('/data.pkl'):
            data = io.BytesIO(archive.read(record))
            fault = asks_for_memory(data, size, sizes)
            if fault is not None:
                return f'its record {record.filename}: {fault}'
    return None


@cache
def _knows_checksum() -> bool:
    """Whether this release of torch computes it in this way."""
    # Asked of a small archive of its own: another release may compute it
    # otherwise, and whole files must not be refused for that.
    file = io.BytesIO()
    torch.save({'a': torch.zeros(1), 'b': torch.zeros(0)}, file)
    with ZipFile(file) as archive:
        ordered = sorted(archive.infolist(), key=lambda r: r.header_offset)
        return _is_as_noted(archive, ordered)
