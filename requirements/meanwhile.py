# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs a command, and another one with lower priority in its background.

    python requirements/meanwhile.py --log FILE BACKGROUND FOREGROUND

Ends when both have ended, with the status of the one that failed. What runs
in the background writes to the log; if it fails, its last line is told. If
the foreground fails or is interrupted, the background is stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE = 10.0  # seconds in which what was stopped may clean up


@contextmanager
def in_background(
    command: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a command of the shell; stops all of it on the way out."""
    with log.open('w') as stream:
        process = subprocess.Popen(
            ['nice', '-n', '10', 'bash', '-c', command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, to stop as a whole
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupts a command and its children, and kills what is left."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    # Of a shell that has ended, children may go on that heed no interrupt.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The last line of a log that says anything."""
    lines = log.read_text(errors='replace').split('\n')
    return next((line.strip() for line in lines[::-1] if line.strip()), '')


def wait(process: subprocess.Popen[bytes], log: Path) -> int:
    """Waits, showing how far a command has come; returns its status."""
    say = sys.stderr.write
    if process.poll() is None:
        say(f'>> Waiting for the background ({log})\n')
    shown = ''
    while process.poll() is None:
        line = last_line(log)
        if line != shown and sys.stderr.isatty():
            say(f'\r\033[K{line[:70]}')
        shown = line
        time.sleep(0.2)
    if shown and sys.stderr.isatty():
        say('\r\033[K')
    if process.returncode:
        say(f'{last_line(log)}\n(all that was said: {log})\n')
    return process.returncode


def ended(number: int, frame: object) -> None:
    """Ends in a way that leaves nothing running."""
    raise SystemExit(128 + number)


def main() -> int:
    """Runs both."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('background', metavar='BACKGROUND')
    parser.add_argument('foreground', metavar='FOREGROUND')
    parser.add_argument('--log', type=Path, required=True, metavar='FILE')
    args = parser.parse_args()
    # Said for both: what a shell starts in its background ignores interrupts.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ended)
    with in_background(args.background, args.log) as process:
        done = subprocess.run(['bash', '-c', args.foreground])
        return done.returncode or wait(process, args.log)


if __name__ == '__main__':
    sys.exit(main())
