# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
from zoo import markdown, summary
from zoo.measure import Measurement


def test_the_table():
    rows = [
        Measurement(
            'good',
            0.95,
            1_000_000,
            1.0,
            3,
            24,
            effect=0.7,
            errors={'half': 1e-7},
        ).to_dict(),
        Measurement(
            'bad',
            0.95,
            share=0.5,
            frozen={'a': 3, 'b': 2, 'c': 1, 'd': 1},
            effect=0.7,
            errors={'half': 0.1},
            failed='learn: oh',
        ).to_dict(),
        # Nothing was compared: the outputs do not depend on the masks.
        Measurement(
            'blind', share=0.9, effect=0.0, errors={'half': 0.0}
        ).to_dict(),
    ]
    assert summary(rows) == (
        '3 networks: 2 run all steps, 1 agree to 0.0001, 2 reach their bar.'
    )
    text = markdown(rows)
    assert '| good | 1M | 100.0% | 3 | 24 | 1e-07 |' in text
    assert '| bad |  | **50.0%** |' in text
    assert '- bad: a (3); b (2); c (1); 1 other reasons (1)' in text
    assert '- bad: learn: oh' in text
    assert text.startswith('# The model zoo, measured\n')
    assert markdown(rows, '# Mine\n').startswith('# Mine\n\nAll weights')
