"""Judging another implementation of the same API: a provider says where it is and how its calls differ.

    nki-oracle check --provider my_package.my_oracle:Mine

names an object (or a class without arguments) such as this one, in a file of yours:

    import dataclasses
    from conformance.providers import Provider

    class Mine(Provider):
        name = "mine"

        def implementation(self, kernel):                     # "qkv", "attention_tkg" ...; None: not there
            return {"qkv": my_package.fused_qkv}.get(kernel)

        def adapt_call(self, kernel, call):                   # leave out where signatures are equal
            return dataclasses.replace(call, arguments=call.arguments | {"layout": "packed"})

Same cases, lanes and grades as for the project's own kernels; what `implementation` answers None to is reported as
not provided. An implementation must be importable by name, at the top of its module: launches on devices happen in
another process. `call` is a conformance.subject.Call, whose `function` may be a kernel of this project that holds
operands on chip and calls the implementation; return another `function` where yours has one of its own.
conformance/providers/adapting.py has the common changes (enumerations, renamed and unknown arguments).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from conformance.subject import Call

__all__ = ["Provider", "ProviderError", "provider"]


class ProviderError(ImportError):
    """A provider that cannot be used, in one line."""


class Provider:
    """What a provider offers; to be derived from."""

    #: For reports.
    name: str = ""

    def implementation(self, kernel: str) -> Callable[..., Any] | None:
        """Its kernel of that name, None where it has none. ProviderError where it is there but broken."""
        raise NotImplementedError

    def adapt_call(self, kernel: str, call: Call) -> Call:
        """The launch as this implementation wants it. conformance.backends.errors.Unfit where it offers no such thing;
        the case is then left out, as one that says nothing of the kernel."""
        return call


@functools.cache
def provider(text: str) -> Provider:
    """The provider named 'package.module:attribute'. ProviderError where there is none."""
    module, _, path = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        made: Any = found() if isinstance(found, type) else found
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ProviderError(f"provider {text} cannot be imported: {error}") from None
    if not isinstance(made, Provider):
        raise ProviderError(f"provider {text} is no conformance.providers.Provider: {type(made).__name__}")
    return made
