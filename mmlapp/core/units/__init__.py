# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is removed, and how it vanishes; one file per unit."""

from .base import UNITS, Found, Request, Unit, register_unit
from .channels import Channels
from .filters import Filters
from .stripes import Stripes

__all__ = [
    'UNITS',
    'Channels',
    'Filters',
    'Found',
    'Request',
    'Stripes',
    'Unit',
    'register_unit',
]
