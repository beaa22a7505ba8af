# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Damaged and forged files, made from whole ones and a seed.

What reads a file that came out of here may refuse it with PruningError, or
take it for what the whole file means; nothing else.
"""

import io
import json
import warnings
import zipfile
from random import Random

import torch

# Kinds of values that take the place of others in JSON.
OTHERS = (
    None,
    True,
    1.5,
    -1,
    10**12,
    10**400,
    float('nan'),
    float('inf'),
    '0-3',
    '',
    [],
    {},
    [[]],
)
# Types that may take the place of another one in a checkpoint.
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64)


def flip_bytes(data, random):
    """Changes one to four bytes."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        data[random.randrange(len(data))] ^= random.randint(1, 255)
    return bytes(data)


def truncate(data, random):
    """Cuts the end off."""
    return data[: random.randrange(len(data))]


def cut_out(data, random):
    """Leaves a stretch out."""
    start, end = sorted(random.sample(range(len(data)), 2))
    return data[:start] + data[end:]


# Of the JSON of a plan.


def _containers(value):
    """All lists and dicts that are not empty, the outermost first."""
    if isinstance(value, (dict, list)) and value:
        yield value
        inner = value.values() if isinstance(value, dict) else value
        for entry in inner:
            yield from _containers(entry)


def _keys(container):
    if isinstance(container, dict):
        return list(container)
    return list(range(len(container)))


def _somewhere(data, random):
    """A container and one of its keys."""
    # Containers of many entries are not chosen more often than others.
    container = random.choice(list(_containers(data)))
    return container, random.choice(_keys(container))


def drop_key(data, random):
    """Leaves an entry out."""
    container, key = _somewhere(data, random)
    del container[key]


def rename_key(data, random):
    """Gives an entry another name."""
    container = random.choice(
        [c for c in _containers(data) if isinstance(c, dict)]
    )
    key = random.choice(list(container))
    container[random.choice(['', 'x', f'{key}.', '01', '-1'])] = container.pop(
        key
    )


def change_number(data, random):
    """Counts a number up or down."""
    for _ in range(1000):
        container, key = _somewhere(data, random)
        if type(container[key]) in (int, float):
            container[key] += random.choice([-2, -1, 1, 2, 1000])
            return


def change_type(data, random):
    """Puts something else in the place of an entry."""
    container, key = _somewhere(data, random)
    container[key] = random.choice(OTHERS)


def swap_entries(data, random):
    """Exchanges two entries of one container."""
    container = random.choice(
        [c for c in _containers(data) if len(c) > 1] or [data]
    )
    a, b = random.sample(_keys(container), 2)
    container[a], container[b] = container[b], container[a]


def change_text(data, random):
    """Changes a character of a text."""
    for _ in range(1000):
        container, key = _somewhere(data, random)
        text = container[key]
        if isinstance(text, str) and text:
            at = random.randrange(len(text))
            new = random.choice('0123456789,-. ax"')
            container[key] = text[:at] + new + text[at + 1 :]
            return


def repeat_key(text, random):
    """Writes a name of an object twice, with another value."""
    at = random.choice([i for i, c in enumerate(text) if c == '{'])
    end = text.index('"', text.find('"', at) + 1) + 1
    name = text[text.find('"', at) : end]
    return (
        f'{text[: at + 1]}{name}:{random.choice(["0", "{}"])},{text[at + 1 :]}'
    )


JSON_MUTATIONS = (
    drop_key,
    rename_key,
    change_number,
    change_type,
    swap_entries,
    change_text,
)


def mutate_plan(text: str, seed: int) -> bytes:
    """Damages the JSON of a plan.

    Args:
        text (str): The JSON.
        seed (int): Equal ones give equal files.

    Returns:
        bytes: What the file holds now.
    """
    random = Random(seed)
    kinds = (flip_bytes, truncate, cut_out, repeat_key, *JSON_MUTATIONS)
    kind = random.choice(kinds)
    if kind in JSON_MUTATIONS:
        data = json.loads(text)
        kind(data, random)
        return json.dumps(data).encode()
    if kind is repeat_key:
        return repeat_key(text, random).encode()
    return kind(text.encode(), random)


# Of the archive that torch.save writes.


def entries_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(i.filename, archive.read(i)) for i in archive.infolist()]


def archive_of(entries, kind=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(file, 'w', kind) as archive,
    ):
        warnings.simplefilter('ignore')  # of names that are there twice
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def drop_entry(data, random):
    """Leaves a record out."""
    entries = entries_of(data)
    del entries[random.randrange(len(entries))]
    return archive_of(entries)


def swap_contents(data, random):
    """Exchanges what two records hold."""
    entries = entries_of(data)
    a, b = random.sample(range(len(entries)), 2)
    (name_a, content_a), (name_b, content_b) = entries[a], entries[b]
    entries[a], entries[b] = (name_a, content_b), (name_b, content_a)
    return archive_of(entries)


def swap_names(data, random):
    """Exchanges the names of two records."""
    entries = entries_of(data)
    a, b = random.sample(range(len(entries)), 2)
    (name_a, content_a), (name_b, content_b) = entries[a], entries[b]
    entries[a], entries[b] = (name_b, content_a), (name_a, content_b)
    return archive_of(entries)


def repeat_entry(data, random):
    """Writes a record twice, the second time with other bytes."""
    entries = entries_of(data)
    name, content = random.choice(entries)
    return archive_of([*entries, (name, bytes(len(content)))])


def resize_entry(data, random):
    """Makes a record shorter or longer."""
    entries = entries_of(data)
    at = random.randrange(len(entries))
    name, content = entries[at]
    entries[at] = name, random.choice([content[:-1], content + bytes(8)])
    return archive_of(entries)


def change_entry(data, random):
    """Changes a byte of a record, whose checksum follows."""
    entries = entries_of(data)
    at = random.randrange(len(entries))
    name, content = entries[at]
    entries[at] = name, flip_bytes(content, random) if content else b'x'
    return archive_of(entries)


def compress(data, random):
    """Compresses all records, as other archives are."""
    return archive_of(entries_of(data), zipfile.ZIP_DEFLATED)


FILE_MUTATIONS = (
    flip_bytes,
    truncate,
    cut_out,
    drop_entry,
    swap_contents,
    swap_names,
    repeat_entry,
    resize_entry,
    change_entry,
    compress,
)


def mutate_file(data: bytes, seed: int) -> bytes:
    """Damages the file of a checkpoint.

    Args:
        data (bytes): What torch.save wrote.
        seed (int): Equal ones give equal files.

    Returns:
        bytes: What the file holds now.
    """
    random = Random(seed)
    return random.choice(FILE_MUTATIONS)(data, random)


# Of the weights in it.


def _as_type(tensor, random):
    return tensor.to(random.choice([d for d in DTYPES if d != tensor.dtype]))


def _reshaped(tensor, random):
    return random.choice([tensor[None], tensor.flatten()[:-1]])


def _not_finite(tensor, random):
    value = random.choice([float('nan'), float('inf'), -float('inf')])
    tensor = tensor.clone()
    tensor.view(-1)[random.randrange(tensor.numel())] = value
    return tensor


def _expanded(tensor, random):
    return tensor.flatten()[:1].expand(tensor.shape)


def _other(tensor, random):
    return random.choice([None, 1.5, 'text', [1.0], tensor.numpy()])


TENSOR_MUTATIONS = (_as_type, _reshaped, _not_finite, _expanded, _other)


def mutate_weights(state: dict, seed: int) -> dict:
    """Forges a weight of a state dict, or the name of one.

    Args:
        state (dict): Floating tensors, and others, by name.
        seed (int): Equal ones give equal weights.

    Returns:
        dict: A new one; what it was made from stays.
    """
    random, state = Random(seed), dict(state)
    names = [
        name
        for name, value in state.items()
        if value.is_floating_point() and value.numel() > 1
    ]
    name = random.choice(names)
    kind = random.choice([*TENSOR_MUTATIONS, 'drop', 'rename'])
    if kind == 'drop':
        del state[name]
    elif kind == 'rename':
        state[random.choice([f'{name}.x', 3])] = state.pop(name)
    else:
        state[name] = kind(state[name], random)
    return state
