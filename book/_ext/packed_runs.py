"""Sphinx extension: the runs that the reader shows, packed from their records beside the built pages."""

from pathlib import Path
from typing import Any

from snp_lib import store
from snp_lib.interactive import reader
from snp_lib.results.sites import shuffle_outputs
from snp_lib.results.stages import Stage
from snp_lib.store import StoreError
from snp_lib.store.derived import Arrays
from sphinx.application import Sphinx


def pack(app: Sphinx, error: Exception | None) -> None:
    """Write the scripts of every run named in ``snp_reader_runs``; after a build that succeeded, html builders only."""
    if error is not None or app.builder.format != "html":
        return
    for name in app.config.snp_reader_runs:
        run = store.read(store.root("records") / name)
        for path, content in reader.files(run, shuffle_outputs, _untrained(run)):
            target = Path(app.outdir) / "_static" / "reader" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")


def _untrained(run: store.Run) -> Arrays | None:
    """What was measured of the network before its training, where anybody did."""
    try:
        return Stage(epoch=0).read(run)
    except StoreError:
        return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("snp_reader_runs", [], "html", list)
    app.connect("build-finished", pack)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
