"""Why a fault cannot be seen in what a device returns: one sentence per reason, named by the mutants it holds for.

`OUT_OF_BOUNDS` is no such reason, but where the refusal of a device is documented that stands for outputs.
"""

LAST_BITS = (
    "two float32 factors in the other order: results differ in their last bits, by less than one answer to an open "
    "question from another"
)
LEGAL = (
    "the same numbers are added in another order: a device may add them so itself, and every bound must allow it"
)
NEARER = (
    "a rounding is left out, so results are nearer to truth than right ones; exact lanes do not show it, since the "
    "factor behind it is a power of two in them, or no angle is exact"
)
ONE_OF_MANY = (
    "one rounding more among a dozen of the same size, behind roots that no data make exact: the spread of right "
    "results hides it"
)
SHIFT_FREE = (
    "softmax is the same whatever is subtracted: only the last bits differ until an exponential overflows, which takes "
    "a sink so high that all other weights vanish"
)
NEVER_USED = "what is computed from the unwritten memory is stored nowhere; only the embedded machine sees the read"
SAME_BYTES = "both cores write the same bytes: harmless until a compiler relies on there being one writer"
OUT_OF_BOUNDS = (
    "nki.isa, dma_copy: an index beyond its tensor is an error at run time under oob_mode.error, which is the default"
)
TIMING = (
    "a write races with reads of the other core: whether they meet is a matter of timing, and the embedded machine "
    "alone sees that they could"
)
OF_LITTLE_WEIGHT = (
    "what is wrong weighs so little that right results scatter as far: one new token among thousands of keys, the last "
    "bits of an eps beside a mean square"
)
