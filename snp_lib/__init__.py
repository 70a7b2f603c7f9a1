"""How vision transformers learn, node by node: the measurements of four papers, re-made and checkable.

The way through: :func:`snp_lib.experiments.get` names an experiment, :func:`snp_lib.run` returns it finished, the
run's ``matrices`` feed :func:`snp_lib.performance.summarize`, and :func:`snp_lib.report` prints and checks a number.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snp_lib.book.reporting import report as report, show as show
    from snp_lib.results import run_all as run_all
    from snp_lib.results.inspection import inspect as inspect
    from snp_lib.store import run as run

    __version__: str

_FACE = {
    "run": "snp_lib.store",
    "run_all": "snp_lib.results",
    "inspect": "snp_lib.results.inspection",
    "report": "snp_lib.book.reporting",
    "show": "snp_lib.book.reporting",
}


def __getattr__(name: str) -> Any:
    """Load the top of the library on first use, so that what lies below imports without it, and ``snp --help`` without torch."""
    if name == "__version__":
        return import_module("importlib.metadata").version("snp-lib")
    if name in _FACE:
        return getattr(import_module(_FACE[name]), name)
    raise AttributeError(f"module 'snp_lib' has no attribute {name!r}")
