# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How long a newcomer waits: `make demo` of a fresh clone, commit by commit.

    python benchmarks/first_hour.py 8d79b92 HEAD --json first_hour.json
    python benchmarks/first_hour.py --json first_hour.json

Each commit is cloned into an empty folder and has an empty home, so there is
no environment, no cache of pip and no wheel of mmcv. What is fetched comes
over the network, as fast as that is. Without commits the table of the file is
printed. Times depend on the cores and on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlapp.core.files import replace_text

ROOT = Path(__file__).resolve().parents[1]
# The first line that matches says when; all commits print one of each kind.
MARKS = {
    'first network trained': r'ResNet-20 on .*(dense, \d+ s|trained)',
    'first result': r'[Dd]ense against deployed',
}
END, PROCESSOR = 'end', 'processor'
# A newcomer has none of these; a cache named here would not be empty.
STRANGE = re.compile(
    r'(MMLAPP_VENV|PYTHON.*|VIRTUAL_ENV|WHEELS|(OMP|MKL)_NUM_THREADS|CFLAGS|'
    r'MAX_JOBS|MAKE.*|MFLAGS|XDG_.*|PIP_CACHE_DIR|TORCH_.*|GIT_.*)'
)


def newcomer(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment of somebody who comes to this machine.

    Args:
        environment (Mapping[str, str]): Of the one who is here.
        home (Path): An empty folder.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not STRANGE.fullmatch(name)
    }
    return {**kept, 'HOME': str(home), 'PYTHONUNBUFFERED': '1'}


def clone(commit: str, folder: Path, repository: Path = ROOT) -> str:
    """Clones a commit; returns its full name."""
    git = ['git', '-C', str(folder)]
    name = subprocess.run(
        ['git', '-C', str(repository), 'rev-parse', f'{commit}^{{commit}}'],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run(
        ['git', 'clone', '--quiet', '--no-checkout', repository, folder],
        check=True,
    )
    subprocess.run([*git, 'checkout', '--quiet', name], check=True)
    return name


def measure(commit: str, work_dir: Path, repository: Path = ROOT) -> Any:
    """Runs the demo of a commit in a fresh clone.

    Args:
        commit (str): As git names it.
        work_dir (Path): Where the clone and the home are put, and removed.
        repository (Path): That is cloned. Defaults to this one.

    Returns:
        dict: Seconds until each mark and to the end, and of the processor.

    Raises:
        SystemExit: If the demo fails.
    """
    folder = Path(tempfile.mkdtemp(prefix='first-hour-', dir=work_dir))
    try:
        (folder / 'home').mkdir()
        name = clone(commit, folder / 'mmlapp', repository)
        environment = newcomer(os.environ, folder / 'home')
        seconds = run(folder / 'mmlapp', environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {'commit': name, 'seconds': seconds}


def run(folder: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Runs the demo, telling when it says what."""
    started = time.perf_counter()
    process = subprocess.Popen(
        ['make', 'demo', 'WHEELS='], cwd=folder, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    seconds: dict[str, float] = {}
    with process.stdout as lines:
        for line in lines:
            passed = time.perf_counter() - started
            print(f'{passed:6.0f} s  {line}', end='', flush=True)
            for mark, pattern in MARKS.items():
                if re.search(pattern, line):
                    seconds.setdefault(mark, passed)
    # Not process.wait(), which forgets what the demo and its children used.
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f'make demo failed with {process.returncode}')
    seconds[END] = time.perf_counter() - started
    seconds[PROCESSOR] = used.ru_utime + used.ru_stime
    return seconds


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The table of all results, times as minutes and seconds."""
    columns = [*MARKS, END, PROCESSOR]
    lines = [
        f'| commit | {" | ".join(columns)} |',
        f'| :-- |{" --: |" * len(columns)}',
    ]
    lines += [
        f'| `{result["commit"][:7]}` | '
        + ' | '.join(clock(result['seconds'].get(c)) for c in columns)
        + ' |'
        for result in results
    ]
    return '\n'.join(lines)


def clock(seconds: float | None) -> str:
    """Minutes and seconds.

    Args:
        seconds (float, optional): None where it was not seen.

    Examples:
        >>> clock(125.4), clock(None)
        ('2:05', '-')
    """
    if seconds is None:
        return '-'
    return f'{round(seconds) // 60}:{round(seconds) % 60:02d}'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('commits', nargs='*', metavar='COMMIT')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='10 GB for clones and homes (default: that of temporary files)',
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='results are added to it'
    )
    return parser.parse_args(argv)


def main() -> None:
    """Measures, keeps and prints."""
    args = parse_args()
    results = []
    if args.json and args.json.exists():
        results = json.loads(args.json.read_text())
    for commit in args.commits:
        results.append(
            {**measure(commit, args.work_dir), 'cores': os.cpu_count()}
        )
        if args.json:
            replace_text(args.json, json.dumps(results, indent=1) + '\n')
    print(markdown(results))


if __name__ == '__main__':
    sys.exit(main())
