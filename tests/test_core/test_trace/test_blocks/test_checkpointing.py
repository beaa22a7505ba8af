# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import pytest
from torch.utils.checkpoint import checkpoint


@pytest.mark.filterwarnings('ignore:None of the inputs')
@pytest.mark.parametrize('reentrant', [False, True])
def test_what_is_checkpointed_is_followed(net, conv, image, agree, reentrant):
    model = net(
        lambda m, x: m.c(checkpoint(m.b, m.a(x), use_reentrant=reentrant)),
        a=conv(3, 8),
        b=conv(8, 6),
        c=conv(6, 5),
    )
    assert agree(model, image).groups == {'a': 8, 'b': 6}
