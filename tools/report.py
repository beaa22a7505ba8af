# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Show what a run did, on one page with everything in it.

Loss, costs and accuracy over time, the widths of all layers, thresholds
against scores, and what was left alone and why. Works on any run, dense or
pruned, while it lasts and after it; nothing of it is run or loaded.

Examples:
    python tools/report.py work_dirs/NAME
    python tools/report.py work_dirs/NAME --out report.html
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from mmlapp.engine.failures import tells_failures
from mmlapp.engine.known_notes import known_notes_hidden
from mmlapp.engine.pages.files import check_out, write_page
from mmlapp.engine.report.page import page_of
from mmlapp.engine.report.run import read_run
from mmlapp.engine.terminal import console

NAME = 'report.html'


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Parses the command line."""
    parser = ArgumentParser(description='Show what a run did, on one page.')
    parser.add_argument('work_dir', type=Path, help='folder of the run')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE',
        help=f'page to write; WORK_DIR/{NAME} by default',
    )
    return parser.parse_args(argv)


@known_notes_hidden()
@tells_failures
def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page."""
    args = parse_args(argv)
    run = read_run(args.work_dir)
    out = args.out or args.work_dir / NAME
    check_out(out, NAME)
    for path in write_page(out, page_of(run)):
        console().print(f'wrote {path}', soft_wrap=True)


if __name__ == '__main__':
    main()
