# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a run of the tests costs, whatever else the machine does meanwhile."""

import os
from collections import Counter

import pytest


def spent():
    """Processor seconds of this process and of the children it waited for."""
    return sum(os.times()[:4])


class ProcessorTime:
    """Says at the end what was spent; with ``--durations``, by which files.

    Attributes:
        files (Counter[str]): Processor seconds of each file of tests.
        first (float): Those before the first test: imports and collection.
    """

    def __init__(self):
        self.files = Counter()
        self.first = 0.0

    def pytest_collection_finish(self):
        self.first = spent()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        begun = spent()
        try:
            return (yield)
        finally:
            self.files[item.nodeid.partition('::')[0]] += spent() - begun

    def pytest_terminal_summary(self, terminalreporter, config):
        for line in self.report(config.option.durations or 0):
            terminalreporter.write_line(line)

    def report(self, most):
        """Lines of the summary, the dearest files first.

        Args:
            most (int): How many files are named.
        """
        yield (
            f'{spent():.0f} processor seconds, '
            f'{self.first:.0f} before the first test'
        )
        for name, seconds in self.files.most_common(most):
            yield f'{seconds:8.1f}  {name}'
