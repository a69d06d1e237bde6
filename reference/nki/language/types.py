"""Names of nki.language that are values: dtypes, memory regions, tile sizes, tokens, and the base class of
objects."""

from __future__ import annotations

import copy
import inspect
import os
from typing import Any, get_origin

from reference.neuroncore.errors import MachineError
from reference.neuroncore.generation import Generation, current_generation
from reference.neuroncore.launch import current_core, is_active
from reference.neuroncore.region import MemoryRegion

sbuf = MemoryRegion.sbuf
psum = MemoryRegion.psum
private_hbm = MemoryRegion.private_hbm
shared_hbm = MemoryRegion.shared_hbm
hbm = private_hbm


def is_sbuf(buffer: Any) -> bool:
    """Whether `buffer` is SBUF."""
    return region(buffer) is MemoryRegion.sbuf


def is_psum(buffer: Any) -> bool:
    """Whether `buffer` is PSUM."""
    return region(buffer) is MemoryRegion.psum


def is_hbm(buffer: Any) -> bool:
    """Whether `buffer` is HBM, private or shared."""
    return region(buffer) in (MemoryRegion.private_hbm, MemoryRegion.shared_hbm)


def is_on_chip(buffer: Any) -> bool:
    """Whether `buffer` is SBUF or PSUM."""
    return region(buffer).on_chip


def region(buffer: Any) -> MemoryRegion:
    """A memory region; its name as a string (legal up to NKI 0.2) is understood."""
    if isinstance(buffer, MemoryRegion):
        return buffer
    name = "private_hbm" if buffer == "hbm" else buffer
    if isinstance(name, str) and name in MemoryRegion.__members__:
        return MemoryRegion[name]
    raise MachineError(
        "memory.region",
        f"{buffer!r} is no memory region",
        remedy="use nl.sbuf, nl.psum, nl.hbm or nl.shared_hbm",
    )


class Token:
    """An operator name that only instructions understand (nl.average, nl.prelu, nl.bypass)."""

    def __init__(self, name: str) -> None:
        self.nki_op = name
        self.__name__ = name

    def __repr__(self) -> str:
        return f"nl.{self.nki_op}"


average, prelu, bypass = Token("average"), Token("prelu"), Token("bypass")


class NKIObject:
    """Base of the classes that kernels use.

    Works undecorated (annotated fields are taken positionally or by keyword, in declaration order, base
    classes first), as a dataclass (frozen or not), and with an `__init__` of its own. A field without a
    default is None where it is not given, a class attribute without annotation is a field with that default,
    and `__post_init__` runs. Equality compares class and fields.
    """

    #: Tells the launch to look for arrays in the fields.
    _nki_object = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        annotations = inspect.get_annotations(cls)
        for name, kind in annotations.items():
            # A default makes a missing field legal for @dataclass, too, whose decorator runs after this hook.
            if not _is_class_variable(kind) and not hasattr(cls, name):
                setattr(cls, name, None)
        for name, value in list(cls.__dict__.items()):
            if name not in annotations and _is_plain(name, value):
                annotations[name] = type(value)
        cls.__annotations__ = annotations

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = self._field_defaults()
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} values, got {len(args)}")
        values = dict(zip(fields, args, strict=False))
        for name, value in kwargs.items():
            if name not in fields or name in values:
                known = ", ".join(fields) or "none"
                raise TypeError(f"{type(self).__name__}: unexpected field '{name}'; fields are {known}")
            values[name] = value
        for name, default in fields.items():
            object.__setattr__(self, name, values[name] if name in values else _fresh(default))
        after = getattr(self, "__post_init__", None)
        if after is not None:
            after()

    @classmethod
    def _field_defaults(cls) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for name, kind in inspect.get_annotations(base).items():
                if base is not NKIObject and not _is_class_variable(kind):
                    fields[name] = getattr(cls, name, None)
        return fields

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        # Fields may change and may be unhashable; equal objects share their class.
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


def _is_class_variable(kind: Any) -> bool:
    return "ClassVar" in kind if isinstance(kind, str) else "ClassVar" in repr(get_origin(kind) or kind)


def _is_plain(name: str, value: Any) -> bool:
    """A class attribute that stands for a field: no method, descriptor, nested class or mutable container."""
    if name.startswith("_") or callable(value) or hasattr(value, "__get__"):
        return False
    return not isinstance(value, (list, dict, set))


def _fresh(default: Any) -> Any:
    return copy.copy(default) if isinstance(default, (list, dict, set)) else default


def target() -> Generation:
    """The generation of the running launch, else the one the environment names."""
    return current_core().generation if is_active() else current_generation()


class TileSize:
    """Sizes of the target, asked at access time (nl.tile_size)."""

    pmax = 128
    psum_bank_fmax = 512
    psum_fmax = 512  # older name of psum_bank_fmax
    psum_bank_fmax_bytes = 2048
    gemm_stationary_fmax = 128
    gemm_moving_fmax = 512
    bn_stats_fmax = 512
    psum_min_align = 4
    sbuf_min_align = 1

    @property
    def psum_num_banks(self) -> int:
        """Banks of PSUM a kernel may use: 8; 7 where DMA transposes run on the tensor engine."""
        taken = os.environ.get("NKI_DMA_TRANSPOSE_AS_PE_TRANSPOSE", "").lower() == "true"
        return 7 if taken and target().level >= 3 else 8

    @property
    def sbuf_size_bytes(self) -> int:
        """Physical bytes of SBUF, all partitions."""
        return target().sbuf_bytes * target().partitions

    @property
    def sbuf_fmax_bytes(self) -> int:
        """Usable bytes of one partition of SBUF."""
        return target().sbuf_usable_bytes

    @property
    def total_available_sbuf_size(self) -> int:
        """Older name of sbuf_fmax_bytes: bytes of one partition."""
        return self.sbuf_fmax_bytes

    @property
    def sbuf_fmax(self) -> int:
        """Usable float32 elements of one partition of SBUF."""
        return self.sbuf_fmax_bytes // 4


tile_size = TileSize()
