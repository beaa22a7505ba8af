# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measured times of a network's layers: a frozen object and a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import PruningError
from ..files import replace_text
from ..plan.reading import (
    Reader,
    integer,
    mapping,
    number,
    parse_json,
    plain,
    record,
    refuse,
    sequence,
    text,
)
from ..trace import LayerCall

VERSION = 1
# Dimensions of a call that widths are measured of, in the order of a grid.
AXES = 'in', 'out'
WRITTEN_BY = 'Tables are written by tools/latency_table.py'


@dataclass(frozen=True)
class TimedLayer:
    """Median times of one kind of call, at a grid of widths.

    Args:
        names (tuple[str, ...]): Layers of the network that run so.
        op (str): As in :class:`LayerCall`; so are the next three.
        inputs (tuple[int, ...]): Shape of the input with all channels.
        weight (tuple[int, ...]): Shape of the weight.
        geometry (Mapping[str, Any]): Of a convolution.
        axes (Mapping[str, tuple[int, ...]]): Widths that were measured, by
            dimension of the call, ascending up to the full one.
        median (tuple[float, ...]): Seconds; the last axis runs fastest.
        p90 (tuple[float, ...]): Likewise.
    """

    names: tuple[str, ...]
    op: str
    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    geometry: Mapping[str, Any]
    axes: Mapping[str, tuple[int, ...]]
    median: tuple[float, ...]
    p90: tuple[float, ...]


@dataclass(frozen=True)
class TimedNetwork:
    """The whole network at some widths: measured, and what layers tell.

    Args:
        layers (float): Sum of the times of its layers, as a fraction of
            those of the dense network.
        elements (float): What layers put out, likewise.
        median (float): Seconds.
        p90 (float): Seconds.
    """

    layers: float
    elements: float
    median: float
    p90: float


@dataclass(frozen=True)
class LatencyTable:
    """Times of the layers of one network on one device.

    Args:
        setting (Mapping[str, Any]): What was measured, and where: device,
            backend, threads, batch, shape of the input, versions.
        divisor (int): What measured widths are multiples of.
        layers (tuple[TimedLayer, ...]): All kinds of calls.
        networks (tuple[TimedNetwork, ...]): The dense network first.
    """

    setting: Mapping[str, Any]
    divisor: int
    layers: tuple[TimedLayer, ...]
    networks: tuple[TimedNetwork, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings, lists and dicts."""
        found: dict[str, Any] = plain(
            {'version': VERSION, **asdict(self)}, 'table'
        )
        return found

    @classmethod
    def from_dict(cls, data: Any, what: str = 'table') -> LatencyTable:
        """Reads what :meth:`to_dict` wrote.

        Args:
            data (Mapping): The dictionary.
            what (str): What it is, for error texts. Defaults to ``table``.

        Raises:
            PruningError: If it is no table, of an unknown version, damaged,
                or measured at too few widths.
        """
        if not isinstance(data, Mapping) or 'networks' not in data:
            raise PruningError(f'{what} is no latency table. {WRITTEN_BY}')
        if data.get('version') != VERSION:
            raise PruningError(
                f'{what} is of version {data.get("version")!r}: this release '
                f'reads version {VERSION}. Measure it again'
            )
        try:
            entries = {k: v for k, v in data.items() if k != 'version'}
            found = cls(**_read_table(entries, 'table'))
            for layer in found.layers:
                _check_layer(layer, found.divisor)
            _check_dense(found.networks[0])
        except PruningError as error:
            raise PruningError(f'{what} cannot be used: {error}') from error
        return found

    def save(self, path: str | Path) -> None:
        """Writes the table as JSON, in one step.

        Args:
            path (str or Path): The file.
        """
        replace_text(path, json.dumps(self.to_dict(), indent=1) + '\n')

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Reads a file that :meth:`save` wrote.

        Args:
            path (str or Path): The file.

        Raises:
            PruningError: If there is no such file, and as
                :meth:`from_dict`.
        """
        what = f'table={str(path)!r}'
        try:
            content = Path(path).read_text('utf-8')
        except OSError as error:
            raise PruningError(
                f'{what} cannot be read ({error.strerror}). {WRITTEN_BY}'
            ) from error
        except UnicodeDecodeError as error:
            raise PruningError(
                f'{what} is no latency table. {WRITTEN_BY}'
            ) from error
        return cls.from_dict(parse_json(content, what), what)


def key_of(
    op: str,
    inputs: Sequence[int],
    weight: Sequence[int],
    geometry: Mapping[str, Any],
) -> str:
    """Returns what tells calls apart whose times differ, but for the batch.

    Args:
        op (str): As in :class:`LayerCall`; so are the others.
        inputs (Sequence[int]): Shape of the input.
        weight (Sequence[int]): Shape of the weight.
        geometry (Mapping[str, Any]): Of a convolution.
    """
    # Images are counted by the first dimension, of both factors if two
    # activations are multiplied: [batch * heads, rows, in].
    computed = op == 'product' and len(weight) > 2
    # As JSON: a table from a file has lists where a trace has tuples.
    parts = [op, inputs[1:], weight[1:] if computed else weight, geometry]
    return json.dumps(plain(parts, 'call'), sort_keys=True)


def key_of_call(call: LayerCall) -> str:
    """Returns the same of a call.

    Args:
        call (LayerCall): The call.
    """
    return key_of(call.op, call.inputs, call.weight, call.geometry)


def full_width(
    op: str, weight: Sequence[int], transposed: bool, axis: str
) -> int:
    """Returns how wide a dimension of a call is with all channels.

    Args:
        op (str): As in :class:`LayerCall`.
        weight (Sequence[int]): Shape of the weight.
        transposed (bool): Whether a convolution is.
        axis (str): The dimension, ``in`` or ``out``.
    """
    # [out, in, ...], of a transposed convolution [in, out, ...], of a product
    # [..., in, out].
    if op == 'product':
        return weight[-2 if axis == 'in' else -1]
    return weight[int((axis == 'in') != transposed)]


def _check_dense(network: TimedNetwork) -> None:
    if (network.layers, network.elements) != (1, 1):
        raise PruningError(
            f"the first of 'networks' has {network.layers:g} of all layers "
            f'and {network.elements:g} of all elements: expected the dense '
            'one, with 1 of both'
        )


def _check_layer(layer: TimedLayer, divisor: int) -> None:
    name = layer.names[0]
    if len(layer.weight) < 2:
        raise PruningError(f'{name}: a weight of {list(layer.weight)}')
    for axis, widths in layer.axes.items():
        full = full_width(
            layer.op,
            layer.weight,
            bool(layer.geometry.get('transposed')),
            axis,
        )
        # Widths 8 and 64 of 64: gaps of 8 and 56.
        gaps = [b - a for a, b in zip((0, *widths), widths, strict=False)]
        if not widths or min(gaps) < 1 or widths[-1] != full:
            raise PruningError(
                f'{name}: widths {list(widths)} of {axis!r} are not in order '
                f'up to {full}'
            )
        if max(gaps) > max(divisor, full // 2):
            raise PruningError(
                f'{name}: the grid of {axis!r} is too coarse, '
                f'{list(widths)}; no gap may be more than {full // 2}'
            )
    # One time for each pair of widths, or for each width, or one.
    size = math.prod(map(len, layer.axes.values()))
    for times in (layer.median, layer.p90):
        if len(times) != size:
            raise PruningError(f'{name}: {len(times)} times for {size} widths')


def _axes(value: Any, where: str) -> dict[str, tuple[int, ...]]:
    """Reads widths by dimension, in the order of a grid."""
    found = record({axis: sequence(_size) for axis in AXES}, optional=AXES)(
        value, where
    )
    return found


def _some(read: Reader[tuple[Any, ...]]) -> Reader[tuple[Any, ...]]:
    """A list with an entry at least."""

    def read_some(value: Any, where: str) -> tuple[Any, ...]:
        found = read(value, where)
        if not found:
            raise PruningError(f'{where} is empty')
        return found

    return read_some


def _positive(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        refuse(value, where, 'a whole number from 1 on')
    return value


_size = integer(2**31, 'a size')
_seconds = number(0, 'a time above 0')
# Branches make it more than one.
_ratio = number(0, 'a fraction above 0')
_read_layer = record(
    {
        'names': _some(sequence(text)),
        'op': text,
        'inputs': _some(sequence(_size)),
        'weight': _some(sequence(_size)),
        'geometry': mapping(plain),
        'axes': _axes,
        'median': sequence(_seconds),
        'p90': sequence(_seconds),
    }
)
_read_network = record(
    {
        'layers': _ratio,
        'elements': _ratio,
        'median': _seconds,
        'p90': _seconds,
    }
)
_read_table = record(
    {
        'setting': mapping(plain),
        'divisor': _positive,
        'layers': _some(
            sequence(lambda v, w: TimedLayer(**_read_layer(v, w)))
        ),
        'networks': _some(
            sequence(lambda v, w: TimedNetwork(**_read_network(v, w)))
        ),
    }
)
