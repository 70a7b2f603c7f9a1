"""The command ``snp``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from snp_lib.cli import keep as keep  # which adds its verbs
from snp_lib.cli.verbs import VERBS


class Parser(argparse.ArgumentParser):
    """A wrong option gets one line, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed or a check did not hold, 2 wrong usage, 3 stopped early."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = [part for each in arguments for part in (each.split("=", 1) if each.startswith("--set=") else [each])]
    if arguments[:1] == ["record"] and "--set" in arguments:  # the name of `snp make SET` until version 0.1
        at = arguments.index("--set")
        arguments = ["make", *arguments[at + 1 : at + 2], *arguments[1:at], *arguments[at + 2 :]]
    options = _parser().parse_args(arguments)
    try:
        code: int = options.verb(options)
        return code
    except KeyboardInterrupt:
        print("snp: interrupted; a training goes on from its last checkpoint when asked for again", file=sys.stderr)
        return 130
    except Exception as error:
        from snp_lib.training.stopping import Stopped

        if not isinstance(error, (Stopped, *_expected_errors())):
            raise
        print(f"snp: {error}", file=sys.stderr)
        return 3 if isinstance(error, Stopped) else 1
    finally:
        if "snp_lib.training.team" in sys.modules:
            sys.modules["snp_lib.training.team"].stop()


def _expected_errors() -> tuple[type[Exception], ...]:
    from snp_lib.book.chapters import ReproduceError
    from snp_lib.book.reporting import ReportError
    from snp_lib.data import DataError
    from snp_lib.results.fleet import FleetError
    from snp_lib.store import StoreError
    from snp_lib.training import TrainingError
    from snp_lib.training.checkpoint import CheckpointError

    return DataError, StoreError, TrainingError, CheckpointError, ReportError, ReproduceError, FleetError, ValueError, OSError


def _parser() -> Parser:
    title = "How vision transformers learn, node by node: the measurements of four papers, re-made and checkable."
    parser = Parser(prog="snp", description=title)
    parser.add_argument("--version", action="version", version=f"snp {metadata.version('snp-lib')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, (verb, text, declare) in VERBS.items():
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        declare(sub)
    return parser
