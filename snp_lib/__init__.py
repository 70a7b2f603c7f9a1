"""How vision transformers learn, node by node: the measurements of four papers, re-made and checkable.

The way through: :func:`snp_lib.experiments.get` names an experiment, :func:`snp_lib.run` returns it finished, the
run's ``matrices`` feed :func:`snp_lib.performance.summarize`, and :func:`snp_lib.reporting.report` prints and checks a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

__version__ = "0.1.0"
__all__ = ["__version__", "report", "run"]


def _import_torchvision() -> None:
    """Import torchvision also where its compiled operators do not match a CPU-only torch.

    Its Python part needs two operator names that the compiled part would declare; nothing here calls them.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


_import_torchvision()

if TYPE_CHECKING:
    from snp_lib.reporting import report
    from snp_lib.store import run


def __getattr__(name: str) -> Any:
    """Load the top of the library on first use, so that models and measurements import without it."""
    if name == "run":
        from snp_lib.store import run

        return run
    if name == "report":
        from snp_lib.reporting import report

        return report
    raise AttributeError(f"module 'snp_lib' has no attribute {name!r}")
