"""`nki-oracle explain`: the first rounding point at which model and kernel part."""

from __future__ import annotations

from typing import Annotated

import typer

from conformance.backends.errors import Unfit
from conformance.explain import first_difference
from reference.neuroncore.errors import NkiValidationError
from tools import selection
from tools.errors import BadInput
from tools.output import console


def explain(
    name: Annotated[str, typer.Argument(metavar="KERNEL")],
    case: Annotated[str, typer.Option(help="Id of a case, or its 'cfg:' text.")],
    kernel: Annotated[str | None, typer.Option(help="Another implementation: module:attribute.")] = None,
    provider: Annotated[str | None, typer.Option(help="Somebody's kernels: module:attribute.")] = None,
) -> int:
    """Pair the traces of model and simulated kernel; exit 1 and show where they part, if they do."""
    selection.usable_backend("sim")
    (subject,) = selection.judged([name], kernel, provider).subjects
    (chosen,) = selection.named(subject, [case])
    if (refusal := subject.legal(chosen.config)) is not None:
        raise BadInput(f"this config is refused: {refusal.error()}")
    try:
        explanation = first_difference(subject, chosen)
    except Unfit as error:
        raise BadInput(f"{name} {chosen.id} cannot be asked of {provider}: {error}") from None
    except NkiValidationError as error:
        told = f"{name} {chosen.id}: the kernel stopped: {error}"
        console().print(told, markup=False, highlight=False, soft_wrap=True)
        return 1
    console().print(explanation.text(), markup=False, highlight=False)
    return 0 if explanation.agrees else 1
