"""What the members of committees share, and what the committees gain: a crossed design of networks (paper B, abstract; defined here).

Every committee that networks can form counts, so each network takes part in many; :mod:`snp_lib.analysis.crossed` knows that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from snp_lib.analysis import committee
from snp_lib.analysis.crossed import Crossed, Over, answers_together, crossed, gains
from snp_lib.results.committee import CONVOLUTIONAL, FRONTS, HALF, ORDERS, OTHER_FRONTS, PATCHES, TRANSFORMERS, gather
from snp_lib.store import Run

PATCHES_BESIDE, CONVOLUTIONAL_BESIDE = f"{TRANSFORMERS} with {PATCHES}", f"{TRANSFORMERS} with {CONVOLUTIONAL}"

Cell = Bool[np.ndarray, " committee"]
"""Which committees of a :class:`Crossing` belong to a cell of the design."""


def _shape(run: Run) -> tuple[Any, ...]:
    options = {name: value for name, value in run.experiment.model_options.items() if name != "num_heads"}
    return run.experiment.model, tuple(sorted(options.items()))


def _order(run: Run) -> tuple[Any, ...]:
    one, cpu = run.experiment, "CPU" in run.manifest["device"]
    return one.seed if one.order_seed is None else one.order_seed, cpu, repr(one.recipe)


TRAITS: dict[str, Callable[[Run], Any]] = {
    "shape": _shape,
    "heads": lambda run: run.num_heads,
    "initialisation": lambda run: (run.experiment.seed, _shape(run)),
    "order": _order,
}
"""What members may share, each with what is compared.

- shape: the network but for its number of heads.
- initialisation: all first weights, which networks of one shape and seed have in common whatever their number of heads.
- order: the order of the images and their augmentation, which hang on a seed, the recipe and the generator, another one on a GPU.
"""


@dataclass(frozen=True)
class Crossing:
    """Soft committees of one size, each labelled by what its members share.

    Attributes:
        runs: every run once.
        chosen: members of each committee, numbered as ``runs``.
        table: one row per committee: family, members (their names), each trait of ``TRAITS`` (``same`` for all, ``other`` for any two,
            else ``mixed``), counts (the members' numbers of heads); mean and best accuracy of the members and accuracy of the
            committee in [0, 1]; gain, gain_best and per_error, see :func:`snp_lib.analysis.crossed.gains`; disagreement and
            error_correlation of the members, see :mod:`snp_lib.analysis.committee`.
        alone, together: which images each run and each committee gets right.
    """

    runs: list[Run]
    chosen: Int[np.ndarray, "committee size"]
    table: pd.DataFrame
    alone: Bool[np.ndarray, "member image"]
    together: Bool[np.ndarray, "committee image"]

    def where(self, **conditions: str) -> Cell:
        """The committees with these values in the table, such as ``heads="same"``."""
        cell: Cell = np.logical_and.reduce([(self.table[column] == value).to_numpy() for column, value in conditions.items()])
        return cell

    def contrast(self, cell: Cell, against: Cell | None = None, *, over: Over = "mean", networks: bool = False) -> Crossed:
        """The mean gain of a cell, or how much larger it is than that of another, and how uncertain, over seeds and images.

        Args:
            over: see :func:`snp_lib.analysis.crossed.gains`.
            networks: uncertain over single networks, not over seeds with all networks that they initialise.

        Raises:
            ValueError: a cell without committees.
        """
        cells = [cell] if against is None else [cell, against]
        if not all(each.any() for each in cells):
            raise ValueError("no committee of this kind")
        sides = cells[0].astype(np.int64) - sum(each.astype(np.int64) for each in cells[1:])
        used = sides != 0
        units = np.arange(len(self.runs)) if networks else np.array([run.experiment.seed for run in self.runs])
        return crossed(gains(self.together[used], self.alone, self.chosen[used], over), self.chosen[used], sides[used], units)


def crossing(
    families: Mapping[str, Sequence[Run]],
    size: int = 2,
    *,
    between: Mapping[str, tuple[Sequence[Run], Sequence[Run]]] | None = None,
    only: Callable[[Mapping[str, str]], bool] | None = None,
) -> Crossing:
    """Every committee of ``size`` runs of one family, by mean logit; a run may stand in several families.

    Args:
        between: further families, of pairs with a member from either side.
        only: which committees are formed, by their traits; None: all.

    Raises:
        ValueError: there is none, or as for :func:`snp_lib.results.committee.gather`.
    """
    possible = [(name, members) for name, family in families.items() for members in combinations(family, size)]
    possible += [(name, pair) for name, sides in (between or {}).items() for pair in product(*sides)]
    runs = list({run.experiment.id: run for _, members in possible for run in members}.values())
    number = {run.experiment.id: m for m, run in enumerate(runs)}
    traits = [{trait: value(run) for trait, value in TRAITS.items()} for run in runs]
    rows: list[dict[str, Any]] = []
    drawn: list[list[int]] = []
    for name, runs_of_it in possible:
        members = [number[run.experiment.id] for run in runs_of_it]
        shared = {trait: _alike([traits[m][trait] for m in members]) for trait in TRAITS}
        if only is None or only(shared):
            drawn.append(members)
            rows.append({"family": name, "members": ", ".join(run.experiment.id for run in runs_of_it), **shared})
    if not drawn:
        raise ValueError(f"there are no committees of {size}")
    whole, chosen = gather(runs), np.array(drawn)
    answers = whole.logits.argmax(axis=-1)
    alone, together = answers == whole.labels, answers_together(whole.logits, chosen) == whole.labels
    for row, members, right in zip(rows, drawn, together, strict=True):
        accuracy, reached = alone[members].mean(axis=1), right.mean()
        gain = reached - accuracy.mean()
        row["counts"] = tuple(runs[m].num_heads for m in members)
        row |= {"mean": accuracy.mean(), "best": accuracy.max(), "accuracy": reached}
        row |= {"gain": gain, "gain_best": reached - accuracy.max(), "per_error": gain / (1 - accuracy.mean())}
        row["disagreement"] = committee.disagreement(answers[members])
        row["error_correlation"] = committee.error_correlation(~alone[members])
    return Crossing(runs, chosen, pd.DataFrame(rows), alone, together)


def _alike(values: Sequence[Any]) -> str:
    """``same`` if all are equal, ``other`` if no two are, else ``mixed``."""
    pairs = [a == b for a, b in combinations(values, 2)]
    return "same" if all(pairs) else "mixed" if any(pairs) else "other"


def _network(heads: str, initialisation: str, order: str, family: str = TRANSFORMERS) -> dict[str, str]:
    return {"family": family, "heads": heads, "initialisation": initialisation, "order": order}


CELLS: dict[str, dict[str, str]] = {
    "other heads, other initialisation and order": _network("other", "other", "other"),
    "same heads, other initialisation and order": _network("same", "other", "other"),
    "other heads, other initialisation, same order": _network("other", "other", "same", ORDERS),
    "same heads, other initialisation, same order": _network("same", "other", "same", ORDERS),
    "other heads, same initialisation, other order": _network("other", "same", "other"),
    "same heads, same initialisation, other order": _network("same", "same", "other", ORDERS),
    "other heads, same initialisation and order": _network("other", "same", "same"),
    "other first encoder, other order": {"family": FRONTS, "shape": "other", "order": "other"},
    "other first encoder, same order": {"family": FRONTS, "shape": "other", "order": "same"},
    "half the width, other seeds": {"family": HALF},
    "plain vision transformer, other seeds": {"family": PATCHES},
    "residual network, other seeds": {"family": CONVOLUTIONAL},
}
"""Cells of the design, in words, and the conditions of :meth:`Crossing.where`: from little shared to much, other networks last."""

MIXED_CELLS: dict[str, dict[str, str]] = {
    "narrow or separable convolutions first": {"family": OTHER_FRONTS, "shape": "other"},
    "compact and plain vision transformer": {"family": PATCHES_BESIDE},
    "compact transformer and residual network": {"family": CONVOLUTIONAL_BESIDE},
}
"""The same for committees whose members are far apart in accuracy, so that a gain over their mean says little."""


def cells_of(crossings: Mapping[str, Crossing], cells: Mapping[str, Mapping[str, str]], *, over: Over = "mean") -> pd.DataFrame:
    """Gains in percentage points by what members share, one row per cell and key of ``crossings`` that has committees of it.

    Args:
        crossings: scale → its committees.

    Returns:
        Columns cell, scale, pairs (how many committees), mean accuracy (%) of the members, gain (see ``over``) and over best; low and high,
        the 95 % interval over networks and images, seeds_low and seeds_high, over seeds and images (NaN where a cell has too few);
        disagreement and error correlation of the members.
    """
    rows = []
    for name, conditions in cells.items():
        for scale, one in crossings.items():
            cell = one.where(**conditions)
            if cell.any():
                found = one.contrast(cell, over=over, networks=True)
                ends = [100 * end for each in (found, one.contrast(cell, over=over)) for end in each.interval]
                committees = one.table[cell]
                row = {"cell": name, "scale": scale, "pairs": len(committees), "members": 100 * committees["mean"].mean()}
                row |= {"gain": 100 * found.estimate, "over best": 100 * committees.gain_best.mean()}
                row |= dict(zip(("low", "high", "seeds_low", "seeds_high"), ends, strict=True))
                rows.append(row | {each: committees[each].mean() for each in ("disagreement", "error_correlation")})
    return pd.DataFrame(rows)


def differences(committees: Crossing, counts: Sequence[int]) -> pd.DataFrame:
    """How much more some committees of compact transformers gain than others, in percentage points, one row per comparison that there is.

    Args:
        counts: numbers of heads whose networks are equally accurate.

    Returns:
        The index says what is compared; columns committees and against (how many), difference, and its standard errors over networks,
        over seeds and over images, see :class:`snp_lib.analysis.crossed.Crossed`.
    """
    equal = f"the same, members of {', '.join(map(str, counts))} heads"
    cells = "other heads, other initialisation and order", "other heads, same initialisation and order"
    compared = {
        "other heads minus same heads, other seeds": heads_beside_seeds(committees),
        equal: heads_beside_seeds(committees, counts),
        "other heads, other minus same initialisation and order": tuple(committees.where(**CELLS[cell]) for cell in cells),
    }
    rows = {}
    for name, (cell, against) in compared.items():
        if cell.any() and against.any():
            by_network, by_seed = (committees.contrast(cell, against, networks=networks) for networks in (True, False))
            row = {"committees": int(cell.sum()), "against": int(against.sum()), "difference": 100 * by_seed.estimate}
            row |= {"se networks": 100 * by_network.over_units, "se seeds": 100 * by_seed.over_units}
            rows[name] = row | {"se images": 100 * by_seed.over_images}
    return pd.DataFrame(rows.values(), index=list(rows))


def compared(families: Mapping[str, Mapping[str, Sequence[Run]]], pairs: Mapping[str, Crossing], counts: Sequence[int]) -> pd.DataFrame:
    """:func:`differences` between pairs and between trios, one under the other.

    Args:
        families: scale → families; of them come the trios.
        pairs: scale → :func:`pairs`.
        counts: as there.
    """
    crossings = {f"pairs, {scale}": one for scale, one in pairs.items()} | {f"trios, {scale}": trios(families[scale]) for scale in pairs}
    tables = {name: table for name, one in crossings.items() if len(table := differences(one, counts))}
    return pd.concat(tables) if tables else pd.DataFrame()


def pairs(families: Mapping[str, Sequence[Run]], reordered: Sequence[Run] = ()) -> Crossing:
    """The pairs of chapter B2: within each family, and of compact transformers of four heads with other architectures.

    Args:
        families: of :func:`snp_lib.results.committee.members`, those that there are.
        reordered: the four runs of :func:`snp_lib.results.committee.reordered`; fewer are left out. They make pairs with one another
            and, each of them, with the networks of other heads of seed 0 that were trained in the order of the first.
    """
    own = [run for run in families[TRANSFORMERS] if run.experiment.name == "cct"]
    beside = {PATCHES_BESIDE: PATCHES, CONVOLUTIONAL_BESIDE: CONVOLUTIONAL}
    between: dict[str, tuple[Sequence[Run], Sequence[Run]]] = {
        name: (own, families[family]) for name, family in beside.items() if family in families
    }
    within = dict(families)
    if len(reordered) == 4:
        first = reordered[0]
        others = [run for run in families[TRANSFORMERS] if run.experiment.seed == first.experiment.seed and _order(run) == _order(first)]
        within[ORDERS] = reordered
        between[ORDERS] = (reordered, [run for run in others if run.num_heads != first.num_heads])
    return crossing(within, between=between)


def trios(families: Mapping[str, Sequence[Run]]) -> Crossing:
    """The committees of three compact transformers whose members have each trait all in common or no two of them."""
    return crossing({TRANSFORMERS: families[TRANSFORMERS]}, 3, only=lambda shared: "mixed" not in shared.values())


def heads_beside_seeds(committees: Crossing, counts: Sequence[int] | None = None) -> tuple[Cell, Cell]:
    """Compact transformers of other initialisation and order: those of other heads, and those of the same.

    Args:
        counts: the only numbers of heads of members; None: any.
    """
    allowed = np.array([counts is None or set(each) <= set(counts) for each in committees.table.counts])
    other, same = (committees.where(**CELLS[f"{heads} heads, other initialisation and order"]) for heads in ("other", "same"))
    return other & allowed, same & allowed


def claimed_gains(committees: Crossing) -> dict[str, list[float]]:
    """What is claimed of pairs: end of the claim's name → one jackknife value per seed, see :class:`snp_lib.analysis.crossed.Crossed`.

    - committee-heads: gain over the members' mean, other seeds: other heads minus same heads.
    - committee-cnn: gain per error of the members, other seeds: compact transformers of four heads minus residual networks; the
      estimate alone, which decides nothing, unless both :func:`trained_alike`.
    - committee-cnn-none: gain of residual networks, other seeds, over the better member.

    Where too few seeds are left for the jackknife, the estimate alone; nothing where a cell has no committee.
    """
    transformers, filters = _own_seeds(committees, "cct"), _own_seeds(committees, "resnet")
    asked: dict[str, tuple[tuple[Cell, ...], Over]] = {
        "committee-heads": (heads_beside_seeds(committees), "mean"),
        "committee-cnn": ((transformers, filters), "error"),
        "committee-cnn-none": ((filters,), "best"),
    }
    values = {}
    for name, (cells, over) in asked.items():
        if all(cell.any() for cell in cells):
            found = committees.contrast(*cells, over=over)
            decides = np.isfinite(found.values).all() and (name != "committee-cnn" or trained_alike(committees, "cct", "resnet"))
            values[name] = found.values.tolist() if decides else [found.estimate]
    return values


LIKENESS = 0.02
"""Training accuracies that lie no farther apart count as equal."""


def trained_alike(committees: Crossing, *names: str) -> bool:
    """Whether networks of these names were trained for as many epochs to equal training accuracy: else one is a poor control."""
    trainings = [[run for run in committees.runs if run.experiment.name == name] for name in names]
    epochs = {run.experiment.recipe.epochs for runs in trainings for run in runs}
    reached = [float(np.mean([run.history[-1]["train_accuracy"] for run in runs])) for runs in trainings]
    return len(epochs) == 1 and max(reached) - min(reached) <= LIKENESS


def control(committees: Crossing, names: Mapping[str, str]) -> pd.DataFrame:
    """Pairs of other seeds of one network, one row per network, what it learned of its training images beside what pairs gain.

    Args:
        names: of experiments, each with what it is called in the table.

    Returns:
        Columns epochs; training accuracy, that of the last epoch with its augmentation, and test accuracy, in percent, means over seeds;
        gain over the mean in points, and per error, in percent of the members' error, with the 95 % interval over networks and images;
        disagreement and error correlation of the members. No row for a network of fewer than two seeds.
    """
    rows = {}
    for name, words in names.items():
        cell = _own_seeds(committees, name)
        if cell.any():
            runs = [run for run in committees.runs if run.experiment.name == name]
            found, table = committees.contrast(cell, over="error", networks=True), committees.table[cell]
            reached = np.mean([run.history[-1]["train_accuracy"] for run in runs])
            row: dict[str, Any] = {"epochs": runs[0].experiment.recipe.epochs, "train (%)": 100 * reached}
            row |= {"test (%)": 100 * table["mean"].mean(), "gain": 100 * table.gain.mean(), "per error (%)": 100 * found.estimate}
            row |= dict(zip(("low", "high"), (100 * end for end in found.interval), strict=True))
            rows[words] = row | {each: table[each].mean() for each in ("disagreement", "error_correlation")}
    return pd.DataFrame(rows.values(), index=list(rows))


def _own_seeds(committees: Crossing, name: str) -> Cell:
    """The committees of one experiment's seeds, each counted once where they stand in several families."""
    numbers = [m for m, run in enumerate(committees.runs) if run.experiment.name == name]
    mine = np.isin(committees.chosen, numbers).all(axis=1) & (committees.table.family != ORDERS).to_numpy()
    again = pd.DataFrame(committees.chosen).duplicated().to_numpy()
    first: Cell = mine & ~(again & mine)
    return first
