# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Looks for faults: ``python -m fuzzing 0:3000``, or a single seed."""

from __future__ import annotations

import argparse
import sys
import warnings

import torch

from .faults import fuzz, smallest


def seeds_of(text: str) -> range:
    """Reads ``7`` or ``0:3000``."""
    first, colon, last = text.partition(':')
    return range(int(first), int(last) if colon else int(first) + 1)


def main() -> int:
    """Prints every fault; returns how many there are."""
    parser = argparse.ArgumentParser(prog='fuzzing', description=__doc__)
    parser.add_argument('seeds', type=seeds_of)
    parser.add_argument(
        '--whole', action='store_true', help='do not leave out blocks'
    )
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    faults = 0
    for seed in args.seeds:
        found = fuzz(seed)
        if found is not None:
            faults += 1
            print(found if args.whole else smallest(found), flush=True)
            print(flush=True)
    print(f'{len(args.seeds)} networks, {faults} with faults')
    return faults > 0


if __name__ == '__main__':
    sys.exit(main())
