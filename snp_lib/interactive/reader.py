"""The reader of a published page: what a run recognises, packed for ``book/_static/reader.js``, and its place in a page.

Browser and Python compute from the same numbers, class means and readout weights in half precision as a record keeps
them, so that nothing is rounded on the way. A node's matrix is exact in single precision. A head's is summed in double
precision and rounded once here and there; :meth:`snp_lib.store.Run.matrices` sums in single precision, in whatever order
the machine likes, and may differ in a last bit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from IPython.display import HTML
from jaxtyping import Float, Num

from snp_lib.interactive.explorer import FIRST, legend, unit_name, unit_page
from snp_lib.models.sites import split_site
from snp_lib.performance import THETA, group_units, unit_matrices
from snp_lib.plots.style import NAMES
from snp_lib.store import Run, Unit

Packed = Num[np.ndarray, "label node"]

Shuffle = Callable[..., np.ndarray]


def files(run: Run, shuffle: Shuffle, untrained: Mapping[str, np.ndarray] | None = None) -> Iterator[tuple[str, str]]:
    """The scripts that a page loads one by one, as it needs them: path below ``_static/reader/`` and content.

    ``RUN/index.js`` holds names and sites, ``RUN/SITE.trained.js`` and ``RUN/SITE.untrained.js`` class means ``m`` and
    readout weights ``w`` (node, label) as base64 of little-endian half precision, ``RUN/SITE.shuffled.js`` the order of
    the outputs of every unit as base64 of bytes.

    Args:
        run: of at most 256 labels.
        shuffle: the control, see :func:`snp_lib.results.sites.shuffle_outputs`; called with matrices and the run's seed.
        untrained: arrays ``means_test/SITE`` and ``weight/SITE`` of the network before training, where they were kept.

    Raises:
        ValueError: more labels, or class means or weights that half precision does not hold.
    """
    name, labels = run.experiment.id, len(run.class_names)
    if labels > 256:
        raise ValueError(f"{name} has {labels} labels; the order of their outputs is packed in bytes, which count 256")
    before = untrained if untrained is not None and all(f"weight/{site}" in untrained for site in run.sites) else None
    sites = {site: split_site(site) for site in run.sites}
    about = {
        "title": f"{run.experiment.name} on {run.experiment.dataset}, {run.experiment.scale}, seed {run.experiment.seed}",
        "record": run.record,
        "names": run.class_names,
        "heads": run.num_heads,
        "states": ["trained", *(["untrained"] if before is not None else []), "shuffled"],
        "kinds": {kind: NAMES.get(kind, kind) for kind in dict.fromkeys(kind for _, kind in sites.values())},
        "sites": {site: {"block": block, "kind": kind} for site, (block, kind) in sites.items()},
    }
    yield _script(f"{name}/index", about)
    for site, (_, kind) in sites.items():
        for state, arrays in (("trained", run.arrays), ("untrained", before)):
            if arrays is not None:
                packed = {"w": _halves(arrays[f"weight/{site}"]), "m": _halves(arrays[f"means_test/{site}"])}
                yield _script(f"{name}/{site}.{state}", packed)
        units = {"node": run.sites[site]} | ({"head": run.num_heads} if kind == "mha" else {})
        orders = {unit: _bytes(output_orders(shuffle, number, labels, run.experiment.seed)) for unit, number in units.items()}
        yield _script(f"{name}/{site}.shuffled", orders)


def output_orders(shuffle: Shuffle, units: int, labels: int, seed: int) -> Num[np.ndarray, "unit label"]:
    """Where a shuffle takes each output of a unit from: column j of its matrix becomes column ``orders[unit, j]``."""
    return np.asarray(shuffle(np.tile(np.arange(labels), (units, 1, 1)), seed=seed)[:, 0])


def matrices(means: Packed, weight: Packed, units: int) -> Float[np.ndarray, "unit label output"]:
    """Performance matrices from packed numbers, to the bit as the page computes them: summed in double, rounded to single precision.

    Args:
        means: class means in half precision.
        weight: of the readout, in half precision.
        units: as many as the nodes divide into.
    """
    grouped = (group_units(torch.from_numpy(values.astype(np.float64)), units) for values in (means, weight))
    return unit_matrices(*grouped).float().numpy()


def embed(run: Run, site: str, *, unit: Unit = "node", number: int, theta: float = THETA, reduced: bool = False, runs: str = "") -> HTML:
    """The reader, opened at one unit; without its script, as in a notebook or in print, the same unit as a picture.

    Args:
        run: shown with the script where the book packs it (``snp_reader_runs`` in ``_config.yml``).
        number: of the unit, as figures and tables count: nodes from 0, heads from 1.
        reduced: without the parts that need more than one site.
        runs: ids of all runs to choose from, separated by spaces; default: this one.

    Raises:
        ValueError: unknown site, or heads asked for at a site that is not ``mha``.
        IndexError: no such unit.
    """
    count, index = len(run.matrices(site, unit=unit)), number - FIRST[unit]
    if not 0 <= index < count:
        raise IndexError(f"{site} has {count} units ({unit}), numbered from {FIRST[unit]}; there is no {number}")
    own = matrices(run.arrays[f"means_test/{site}"], run.arrays[f"weight/{site}"], count)[index]
    picture = unit_page(f"{site}, {unit_name(unit, index)}", own, theta, run.class_names)
    attributes = {"run": run.experiment.id, "site": site, "unit": f"h{number}" if unit == "head" else f"{number}", "theta": f"{theta:g}"}
    attributes |= {"runs": runs} if runs else {}
    written = " ".join(f'{name}="{value}"' for name, value in attributes.items()) + (" reduced" if reduced else "")
    return HTML(f"<snp-reader {written}>{legend(len(run.class_names))}{picture}</snp-reader>")  # type: ignore[no-untyped-call]


def _halves(values: Packed) -> str:
    halves = values.T.astype("<f2")
    if not np.array_equal(halves, values.T):
        raise ValueError("class means and weights are packed in half precision, which does not hold these")
    return _bytes(halves)


def _bytes(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values if values.dtype.itemsize == 2 else values.astype(np.uint8)).tobytes()).decode()


def _script(name: str, content: object) -> tuple[str, str]:
    return f"{name}.js", f"snpReader.put({json.dumps(name)}, {json.dumps(content, ensure_ascii=False, separators=(',', ':'))});\n"
