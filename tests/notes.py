# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a module of a test has met."""


class Notes(list):
    """A list that stays where an analysis puts back what a network keeps."""
