"""Arguments as on the reference page, by position or keyword."""

import inspect

import nki
from nkilib.core.utils.common_types import ours

from kernels.attention_block_tkg import attention_block_tkg as our_block

_KINDS = ("quantization_type_qkv", "quantization_type_out")


@nki.jit
def attention_block_tkg(*args, **kwargs):
    bound = inspect.signature(our_block).bind(*args, **kwargs).arguments
    return our_block(**{name: ours(value) if name in _KINDS else value for name, value in bound.items()})
