# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One table of all methods, for tests of what every method must do."""

# Name of the test: arguments of `attach`, the method first.
EVERY_METHOD = {
    'lapp': dict(method='lapp'),
    'lapp by gradient': dict(method=dict(type='lapp', update='gradient')),
    'uniform': dict(method='uniform'),
    'random': dict(method=dict(type='random', spread=1.0)),
    'ranking': dict(method='ranking'),
    'ranking in steps': dict(
        method=dict(type='ranking', steps=5, cost='divide'),
        score='taylor',
        normalisation='none',
    ),
    'ranking once': dict(
        method=dict(type='ranking', steps=1, cost='divide_all'),
        score='cpmc',
        normalisation='none',
        min_keep=0.2,
    ),
    'ranking by data': dict(
        method='ranking', score=dict(type='functionality', batches=1)
    ),
    'psap': dict(method='psap', protect=0.25),
    'lapp with protection': dict(method='lapp', protect=0.25),
    'admm': dict(
        method=dict(type='admm', rounds=2, updates=2, rho=0.1),
        normalisation='mean',
    ),
    'soft': dict(method='soft', score='operation_aware'),
    'adaptive l1': dict(method='adaptive_l1', normalisation='none'),
    'adaptive l1 of stripes': dict(
        method='adaptive_l1', normalisation='none', unit='stripes'
    ),
    'ranking of stripes': dict(method='ranking', score='l1', unit='stripes'),
    'one cycle': dict(
        method=dict(type='one_cycle', interval=2),
        score='group_norm',
        normalisation='none',
    ),
}


def type_of(arguments):
    """Registered name of the method in an entry of the table."""
    method = arguments['method']
    return method if isinstance(method, str) else method['type']
