"""The command `nki-oracle`: registers the commands and turns bad input into one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from conformance.golden_store import GoldenError
from conformance.ledger import LedgerError
from tools.bench import bench
from tools.budget import budget
from tools.campaign import campaign
from tools.check import check
from tools.doctor import doctor
from tools.drift import drift
from tools.errors import BadInput
from tools.explain import explain
from tools.fuzz import fuzz
from tools.golden import golden
from tools.lint import lint
from tools.listing import list_kernels
from tools.mutants import mutants
from tools.pool import WorkerDied
from tools.probe import probe
from tools.report import report
from tools.run import run as run_kernel

BAD_INPUT = 2
INTERRUPTED = 130

app = typer.Typer(
    help="Are these numbers right, and if not, where do they first go wrong?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(list_kernels)
app.command("check")(check)
app.command("explain")(explain)
app.command("drift")(drift)
app.command("budget")(budget)
app.command("fuzz")(fuzz)
app.command("run")(run_kernel)
app.command("lint")(lint)
app.command("bench")(bench)
app.command("doctor")(doctor)
app.command("campaign")(campaign)
app.command("mutants")(mutants)
app.command("report")(report)
app.command("probe")(probe)
app.add_typer(golden, name="golden")

#: Errors of the option parser; typer does not export their base, and newer ones carry their own parser.
_USAGE: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 right, 1 wrong, 2 bad input, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line; bad input is told in one line on stderr."""
    try:
        code = app(args=arguments, prog_name="nki-oracle", standalone_mode=False)
    except (BadInput, GoldenError, LedgerError, WorkerDied) as error:
        return _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except _USAGE as error:
        return _refuse(getattr(error, "format_message", str)())
    return int(code or 0)


def _refuse(message: str) -> int:
    # Empty where a command without words has printed its help.
    if message:
        print(f"nki-oracle: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    main()
