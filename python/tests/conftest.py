"""One thread unless a test says otherwise: small calls are faster so.  SPDX-License-Identifier: MIT"""
try:
    import torch
except ImportError:
    pass
else:
    torch.set_num_threads(1)
