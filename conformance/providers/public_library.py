"""The public kernel library (package `nkilib`) as a provider.

    nki-oracle check --provider conformance.providers.public_library:PublicLibrary

Names of modules and classes are those of its published reference pages, and where a page and the path of its source
link differ, both are tried. Nothing here was run against the library itself; the adapter is tested with a package
of the same signatures.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from conformance.providers import Provider, ProviderError
from conformance.providers.adapting import known_arguments, rebuilt, translated
from conformance.subject import Call

_PACKAGE = "nkilib"
#: 'module:attribute' of each kernel, the first that is there.
_PLACES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qkv": ("nkilib.core.qkv.qkv:qkv", "nkilib.core.qkv:qkv"),
        "attention_tkg": (
            "nkilib.core.attention.attention_tkg:attention_tkg",
            "nkilib.core.attention_tkg:attention_tkg",
        ),
        "attention_segmented_cte": (
            "nkilib.core.attention.attention_segmented_cte:attention_segmented_cte",
            "nkilib.core.attention:attention_segmented_cte",
        ),
        "output_projection_tkg": (
            "nkilib.core.output_projection.output_projection_tkg:output_projection_tkg",
            "nkilib.core.output_projection:output_projection_tkg",
        ),
        "attention_block_tkg": (
            "nkilib.experimental.transformer.attention_block_tkg:attention_block_tkg",
            "nkilib.core.attention_block_tkg.attention_block_tkg:attention_block_tkg",
        ),
    }
)
_TYPES = "nkilib.core.utils.common_types"
_CONFIG = tuple(place.replace(":attention_tkg", ":AttnTKGConfig") for place in _PLACES["attention_tkg"])
#: The page of attention_tkg makes the allocator a required argument; this kernel hands one in.
_WITH_ALLOCATOR = "conformance.providers.public_library_kernels:attention_tkg"


class PublicLibrary(Provider):
    """Kernels of `nkilib`."""

    name = _PACKAGE

    def implementation(self, kernel: str) -> Callable[..., Any] | None:
        """The library's kernel; None where the installed version has none of that name."""
        found = _first(_PLACES.get(kernel, ()))
        if found is not None and kernel == "attention_tkg":
            return _first((_WITH_ALLOCATOR,))
        return found

    def adapt_call(self, kernel: str, call: Call) -> Call:
        """Enumerations and config objects of the library's own classes, and no argument that it does not have."""
        call = translated(call, importlib.import_module(_TYPES))
        config = _first(_CONFIG)
        if "cfg" in call.arguments and config is not None:
            cfg = rebuilt(call.arguments["cfg"], config)
            call = dataclasses.replace(call, arguments={**call.arguments, "cfg": cfg})
        # Otherwise the function is a kernel of ours that holds operands on chip.
        judged = call.function is self.implementation(kernel)
        return known_arguments(call, call.function) if judged else call


def _first(places: tuple[str, ...]) -> Any:
    for place in places:
        module, _, attribute = place.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.split(".")[0] == _PACKAGE:
                continue
            raise ProviderError(f"{module} cannot be imported: {error}") from None
        except Exception as error:
            raise ProviderError(f"{module} cannot be imported: {type(error).__name__}: {error}") from None
        if callable(found):
            return found
    return None
