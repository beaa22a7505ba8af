# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pages that need nothing else: one file of HTML, without scripts."""
