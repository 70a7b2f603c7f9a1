"""Every figure draws what it is given: one table of (plot, table) → axes, lines and entries of the legend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from snp_lib import plots
from snp_lib.plots.style import CONTROL, NAMES, VERDICTS

RNG = np.random.default_rng(0)
KINDS = ["mha", "ff_hidden", "ff", "block"]


def rows(**values: list[Any]) -> pd.DataFrame:
    """Two seeds of every combination of these values, with two random measures and bars around one."""
    table = pd.DataFrame([dict(zip(values, each, strict=True)) | {"seed": seed} for each in product(*values.values()) for seed in (0, 1)])
    snr = RNG.uniform(1, 2, len(table))
    return table.assign(snr=snr, accuracy=RNG.random(len(table)), low=snr - 0.1, high=snr + 0.1)


STAGES = rows(block=[1, 2, 3], kind=KINDS, epoch=[0, 1, 9])
TRAINED, UNTRAINED = STAGES[STAGES.epoch == 9], STAGES[STAGES.epoch == 0]
READOUTS = rows(block=[1, 2, 3], kind=["mha", "ff"], readout=["flat", "mean"])
HEADS = rows(heads=[2, 4, 8])
THRESHOLDS = rows(theta=[0.2, 0.3, 0.5], block=[1, 2])
ARMS = rows(arm=["dense", "andc", "shuffled"], theta=[0.3, 0.5]).assign(density=0.5, kept=0.5, blocks=0.7, compact=0.9)
TIMES = rows(batch=[1, 128], form=["dense", "blocks", "compact"], theta=[0.3, 0.5]).assign(ratio=1.0)
NETWORKS = rows(batch=[1, 128], network=["all", "fast"]).query("seed == 0")
NETWORKS = NETWORKS.assign(ratio=1.0, ratio_low=0.9, ratio_high=1.1, sd=np.nan, on_frontier=True)
GAINS = pd.DataFrame(
    {"cell": ["other heads", "other heads", "same heads"], "scale": ["small", "medium", "medium"], "gain": [2.0, 1.0, 3.0]}
)
GAINS = GAINS.assign(low=[1.5, 0.5, np.nan], high=[2.5, 1.5, np.nan], seeds_low=[1.0, np.nan, np.nan], seeds_high=[3.0, np.nan, np.nan])
COSTS = pd.DataFrame({"family": "a", "size": [1, 2, 7], "macs": [1e6, 2e6, 7e6], "accuracy": [0.5, 0.6, 0.7]})
SINGLES = pd.DataFrame({"family": ["a", "b"], "network": ["one", "other"], "macs": [1e6, 9e6], "accuracy": [0.5, 0.8]})
CLAIMS = pd.DataFrame(
    {
        "group": ["A says", "A says", "A says", "A, our controls", "B says"],
        "verdict": ["not reproduced", "reproduced", "reproduced", "undecided", "not yet measured"],
    }
)
MATRIX = RNG.normal(size=(4, 4))
KIND_NAMES = [NAMES[kind] for kind in KINDS]

Y, BOTH = {"snr": "SNR"}, {"snr": "SNR", "accuracy": "accuracy"}

FIGURES: dict[str, tuple[Callable[..., Figure], tuple[Any, ...], dict[str, Any], list[int], list[str]]] = {
    "one line": (plots.curves, (HEADS, "heads", Y), {"log": True, "zero": False}, [1], []),
    "a named line": (plots.curves, (HEADS, "heads", BOTH), {"names": "measured"}, [1, 1], ["measured"]),
    "a line for each kind": (plots.curves, (TRAINED, "block", BOTH), {"by": "kind"}, [4, 4], KIND_NAMES),
    "with a control": (
        plots.curves,
        (TRAINED, "block", Y),
        {"by": "kind", "control": UNTRAINED, "at": 1},
        [4 + 4 + 1],
        [*KIND_NAMES, "control: outputs shuffled"],
    ),
    "a control that has no such column": (
        plots.curves,
        (TRAINED, "block", Y),
        {"by": "kind", "control": UNTRAINED.drop(columns="kind"), "control_name": "all"},
        [4 + 1],
        [*KIND_NAMES, "all"],
    ),
    "colours choose the lines": (
        plots.curves,
        (TRAINED, "block", Y),
        {"by": "kind", "colors": {"ff": "red", "mha": "blue"}, "names": {"ff": "last", "mha": "first"}},
        [2],
        ["last", "first"],
    ),
    "shades": (
        plots.curves,
        (THRESHOLDS, "theta", Y),
        {"by": "block", "colors": "red", "names": "encoder {}"},
        [2],
        ["encoder 1", "encoder 2"],
    ),
    "over training": (plots.curves, (STAGES, "epoch", Y), {"by": "kind", "at": 1, "zero": False}, [4 + 1], KIND_NAMES),
    "a panel for each kind": (
        plots.curves,
        (STAGES, "block", Y),
        {"panel": "kind", "by": "epoch", "names": {0: "untrained"}},
        [3] * 4,
        ["untrained", "1", "9"],
    ),
    "a grid": (
        plots.curves,
        (TRAINED, "block", BOTH),
        {"panel": "kind", "names": "trained", "control": UNTRAINED, "control_name": "untrained"},
        [2] * 8,
        ["trained", "untrained"],
    ),
    "styles": (
        plots.curves,
        (READOUTS, "block", Y),
        {"panel": "kind", "styles": "readout", "control": READOUTS, "control_name": "untrained"},
        [4, 4],
        ["flat", "mean", "untrained"],
    ),
    "styles of each line": (
        plots.curves,
        (READOUTS, "block", Y),
        {"by": "kind", "styles": "readout"},
        [4],
        [NAMES["mha"], NAMES["ff"], "flat", "mean"],
    ),
    "gains": (plots.gains, (GAINS,), {"xlabel": "points"}, [3 * 3], []),
    "cost": (plots.cost, (COSTS, SINGLES), {"names": {"a": "{} of a", "none": "none"}, "labels": {"one": "single"}}, [2 + 1], []),
    "against chance": (
        plots.seeds_against_null,
        (TRAINED[TRAINED.kind == "ff"].assign(null_low=0.0, null_high=0.5), "snr"),
        {"ylabel": "SNR", "name": "experts", "null": "shuffled"},
        [2 + 1],
        ["experts", "shuffled"],
    ),
    "dots in colours": (
        plots.clouds,
        (TRAINED.assign(ring=TRAINED.block == 1), "snr", "accuracy"),
        {"xlabel": "x", "ylabel": "y", "by": "kind", "hollow": "ring", "hollow_name": "first", "log": True},
        [2 * 4],
        KIND_NAMES,
    ),
    "dots on odds": (
        plots.clouds,
        (STAGES.assign(snr=STAGES.snr / 2), "snr", "accuracy"),
        {"xlabel": "x", "ylabel": "y", "panel": "epoch", "odds": True},
        [1 + 1] * 3,
        [],
    ),
    "dots with names": (plots.clouds, (HEADS, "snr", "accuracy"), {"xlabel": "x", "ylabel": "y", "labels": "heads"}, [2], []),
    "strips": (plots.strips, (HEADS, "snr", "heads"), {"xlabel": "x", "strong": ["2"]}, [2 * 3], []),
    "intervals": (plots.correlations, (TRAINED[TRAINED.kind == "ff"].assign(correlation=0.3),), {}, [2 + 1], []),
    "distributions": (
        plots.cumulative,
        ({"labels": {"a": np.array([1, 2, 2]), "b": np.array([], dtype=int)}, "noise": {"a": np.array([3]), "b": np.array([70])}},),
        {"colors": {"a": "red", "b": "blue"}},
        [1, 2],  # none of an empty group
        ["a", "b"],
    ),
    "arms": (plots.pareto, (ARMS, {"snr": "before", "accuracy": "after"}), {}, [3, 3], ["intact", "ANDC", "ANDC mask shuffled"]),
    "arms of filters": (
        plots.pareto,
        (ARMS.replace({"andc": "afcc"}), {"snr": "before"}),
        {},
        [3],
        ["intact", "AFCC", "AFCC connections shuffled"],
    ),
    "forms": (
        plots.removal,
        (ARMS[ARMS.arm == "andc"],),
        {},
        [3 + 1],
        ["weights kept (no dense product reaches it)", "one product per block", "dead units removed", "dense"],
    ),
    "times": (plots.latency, (TIMES,), {}, [3, 3], ["dense again", "one product per block", "dead units removed"]),
    "ranges": (
        plots.dots,
        (NETWORKS, "ratio", "network"),
        {"xlabel": "x", "by": "batch", "low": "ratio_low", "high": "ratio_high"},
        [8],
        ["1", "128"],
    ),
    "seeds": (plots.dots, (HEADS, "snr", "heads"), {"xlabel": "x", "at": 1.0, "band": (0.9, 1.1)}, [1 + 3 * 2], []),
    "one unit": (plots.matrix_triptych, (MATRIX, MATRIX > 1, [[0, 1], [3]]), {}, [0, 0, 0], []),
    "verdicts": (plots.verdict_dots, (CLAIMS,), {}, [4], list(VERDICTS)),
    "masks": (plots.masks, ({"a": MATRIX > 0, "b": MATRIX > 1},), {}, [0, 0], []),
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_an_axis_a_line_and_a_name_for_all_it_is_given(name: str) -> None:
    plot, args, options, lines, entries = FIGURES[name]
    figure = plot(*args, **options)
    shown = [axis for axis in figure.axes if axis.axison]
    drawn = [[line for line in axis.lines if len(np.atleast_1d(line.get_xdata())) and line.get_label() != "_errorbar"] for axis in shown]
    assert [len(of_axis) for of_axis in drawn] == lines
    assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == entries
    figure.canvas.draw()  # what a page does: nothing may collapse or warn


def test_a_line_is_the_mean_over_seeds_in_the_colour_of_its_kind() -> None:
    (axis,) = plots.curves(TRAINED, "block", Y, by="kind", control=UNTRAINED).axes
    for line, kind in zip(axis.lines[:4], KINDS, strict=True):
        np.testing.assert_allclose(np.asarray(line.get_ydata()), TRAINED[TRAINED.kind == kind].groupby("block").snr.mean())
        assert to_hex(line.get_color()) == plots.COLORS[kind]
    for line, kind in zip(axis.lines[4:], KINDS, strict=True):  # the control is grey, its dots say of what
        np.testing.assert_allclose(np.asarray(line.get_ydata()), UNTRAINED[UNTRAINED.kind == kind].groupby("block").snr.mean())
        assert (to_hex(line.get_color()), to_hex(line.get_markerfacecolor())) == (CONTROL, plots.COLORS[kind])


def test_dots_lie_in_the_line_of_their_name_with_the_mean_of_several_and_the_bar_of_one() -> None:
    axis = plots.dots(HEADS, "snr", "heads", xlabel="x").axes[0]
    for line, (count, group) in enumerate(HEADS.groupby("heads", sort=False)):
        singles, mean = axis.lines[2 * line : 2 * line + 2]
        np.testing.assert_allclose(np.asarray(singles.get_xdata()), group.snr)
        np.testing.assert_allclose(np.asarray(mean.get_xdata()), [group.snr.mean()])
        assert set(singles.get_ydata()) == set(mean.get_ydata()) == {line}  # type: ignore[arg-type]
        assert axis.get_yticklabels()[line].get_text() == str(count)
    assert axis.yaxis_inverted()
    alone = NETWORKS[NETWORKS.batch == 1]
    bar, dot = plots.dots(alone, "ratio", "network", xlabel="x", low="ratio_low", high="ratio_high").axes[0].lines[:2]
    assert (list(bar.get_xdata()), list(dot.get_xdata())) == ([0.9, 1.1], [1.0])  # type: ignore[arg-type]


def test_a_cumulative_line_is_the_share_with_at_most_so_many() -> None:
    values = np.array([1, 2, 2, 5])
    (line,) = plots.cumulative({"labels": {"a": values}}, colors={"a": "red"}).axes[0].lines
    steps = dict(zip(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), strict=True))
    assert {x: steps[x] for x in (1, 2, 5)} == pytest.approx({x: (values <= x).mean() for x in (1, 2, 5)})


def test_a_steep_column_has_a_logarithmic_axis_and_the_others_begin_at_zero() -> None:
    steep, plain = plots.curves(TRAINED, "block", {"snr": "y", "accuracy": "z"}, by="kind", steep=["snr"]).axes
    assert (steep.get_yscale(), plain.get_yscale()) == ("log", "linear")
    assert steep.get_ylim()[0] > 0 == plain.get_ylim()[0]


def test_shades_go_from_light_to_dark_in_the_colour_of_the_panel() -> None:
    figure = plots.curves(STAGES, "block", Y, panel="kind", by="epoch")
    for axis, kind in zip(figure.axes, KINDS, strict=True):
        brightness = [sum(to_rgb(line.get_color())) for line in axis.lines]
        assert brightness == sorted(brightness, reverse=True)
        assert to_hex(axis.lines[-1].get_color()) == plots.COLORS[kind]
        assert axis.get_title() == NAMES[kind]


def test_panels_of_a_row_share_an_axis_that_shows_all_of_them() -> None:
    figure = plots.curves(TRAINED, "block", BOTH, panel="kind", control=UNTRAINED)
    assert [axis.get_title() for axis in figure.axes] == KINDS + [""] * 4
    assert figure.axes[0].get_ylim() == figure.axes[3].get_ylim()
    assert all(axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > STAGES.accuracy.max() for axis in figure.axes[:4])


@pytest.mark.parametrize(
    ("table", "x", "options", "scale", "ticks"),
    [
        (TRAINED, "block", {}, "linear", ["1", "2", "3"]),
        (STAGES, "epoch", {}, "symlog", ["0", "1", "9"]),
        (HEADS, "heads", {"log": True}, "log", ["2", "4", "8"]),
        (rows(epoch=list(range(1, 17))), "epoch", {}, "linear", None),
    ],
)
def test_ticks_stand_at_the_values_where_these_are_few(
    table: pd.DataFrame, x: str, options: dict[str, Any], scale: str, ticks: list[str] | None
) -> None:
    (axis,) = plots.curves(table, x, Y, **options).axes
    assert axis.get_xscale() == scale
    if ticks is not None:
        assert [label.get_text() for label in axis.get_xticklabels()] == ticks
    assert axis.get_xlabel() == {"block": "encoder", "epoch": "finished epochs"}.get(x, x)


def test_a_value_that_is_missing_leaves_no_gap() -> None:
    table = HEADS.assign(snr=HEADS.snr.where(HEADS.heads != 4))
    assert np.asarray(plots.curves(table, "heads", Y).axes[0].lines[0].get_xdata()).tolist() == [2, 8]


def test_dots_stand_beside_the_band_of_chance() -> None:
    rows = [{"block": block, "origin": origin, "same": 0.5 * block} for block in (1, 2) for origin in ("a", "b", "b")]
    table = pd.DataFrame(rows).assign(same_low=0.2, same_chance=[0.2, 0.3, 0.4] * 2, same_high=0.4)
    figure = plots.against_null(table, "block", {"same": "share"}, by="origin", colors={"a": "red", "b": "blue"}, null_name="chance")
    (axis,) = figure.axes
    chance, first, second = axis.lines
    assert list(np.asarray(chance.get_ydata())) == pytest.approx([0.3, 0.3])
    assert list(np.asarray(second.get_ydata())) == [0.5, 0.5, 1.0, 1.0]
    assert (np.asarray(first.get_xdata()) < [1, 2]).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "chance"]
    band = axis.collections[0].get_paths()[0].vertices
    assert (np.asarray(band)[:, 1].min(), np.asarray(band)[:, 1].max()) == pytest.approx((0.2, 0.4))


def test_dots_beside_bands_have_one_scale() -> None:
    table = pd.DataFrame({"block": [1, 2], "origin": "a", "same": [0.1, 0.2], "best": [0.8, 0.9]})
    table = table.assign(**{f"{name}_{end}": 0.3 for name in ("same", "best") for end in ("low", "chance", "high")})
    shares = {"same": "one", "best": "other"}
    for axis in plots.against_null(table, "block", shares, by="origin", colors={"a": "red"}, null_name="chance").axes:
        low, high = axis.get_ylim()
        assert low < 0.1 < 0.9 < high


def test_a_logarithmic_axis_begins_where_the_values_do() -> None:
    table = pd.DataFrame({"step": [0, 10, 20], "spread": [1e-6, 1e-3, 1.0]})
    (axis,) = plots.curves(table, "step", {"spread": "spread"}, steep=["spread"]).axes
    assert axis.get_yscale() == "log"
    assert 0 < axis.get_ylim()[0] < 1e-6


def test_shares_of_claims_are_those_of_each_label() -> None:
    figure = plots.claim_maps({"a": RNG.integers(0, 9, (4, 30)), "b": np.zeros((4, 30), dtype=int)})
    np.testing.assert_allclose(np.asarray(figure.axes[0].images[0].get_array()).sum(axis=0), 1)
    assert len(figure.axes) == 3  # and a scale of the shades


def test_a_gain_lies_within_its_interval_and_is_open_without_one() -> None:
    (axis,) = plots.gains(GAINS, xlabel="points").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["other heads", "same heads"]
    lines = [np.asarray(line.get_xdata()).tolist() for line in axis.lines]
    assert lines[:3] == [[1.0, 3.0], [1.5, 2.5], [2.0]]  # seeds, networks, the gain
    heights = [float(np.asarray(line.get_ydata())[0]) for line in axis.lines[2::3]]
    assert heights[0] < heights[1] < heights[2] == 1
    assert [line.get_markerfacecolor() == "white" for line in axis.lines[2::3]] == [False, False, True]
    assert [text.get_text() for text in axis.texts] == ["small", "medium"]


def test_costs_are_in_millions_and_lines_named_at_their_ends() -> None:
    (axis,) = plots.cost(COSTS, SINGLES, names={"a": "{} of a"}, labels={"one": "single"}).axes
    single, other, line = axis.lines
    assert (np.asarray(single.get_xdata()).tolist(), np.asarray(single.get_ydata()).tolist()) == ([1.0], [50.0])
    assert to_hex(other.get_color()) == CONTROL
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [1, 2, 7])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [50, 60, 70])
    assert [text.get_text() for text in axis.texts] == ["single", "7 of a"]
    low, high = axis.get_xlim()
    assert low < 1
    assert high > 9


def test_maps_of_heads_share_one_scale_and_frame_their_own_label() -> None:
    maps = {"trained": 3 * RNG.random((3, 3, 4, 4)), "untrained": np.ones((3, 3, 4, 4))}
    maps["trained"][2, 1, 0, 0] = 50
    figure = plots.attention_maps(maps, ["a", "b", "c"])
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 18
    ((lowest, highest),) = {axis.images[0].get_clim() for axis in shown}
    assert lowest == 0
    assert 2.5 < highest < 3  # whatever one place receives
    np.testing.assert_array_equal(np.asarray(shown[1].images[0].get_array()), maps["trained"][0, 1])
    framed = [i for i, axis in enumerate(shown) if axis.spines["left"].get_linewidth() > 1]
    assert framed == [0, 3, 7, 10, 14, 17]  # row by row: the diagonal of each network
    assert [axis.get_title(loc="left") for axis in shown[:6]] == ["trained", "", "", "untrained", "", ""]
    figure.canvas.draw()


def test_the_range_of_chance_is_the_mean_of_those_of_the_seeds() -> None:
    table = pd.DataFrame({"seed": [0, 1], "block": [1, 1], "d": [3.0, 4.0], "null_low": [-1.0, -2.0], "null_high": [1.0, 3.0]})
    (axis,) = plots.seeds_against_null(table, "d", ylabel="", name="", null="").axes
    bar: Any = axis.patches[0]
    assert (bar.get_y(), bar.get_y() + bar.get_height()) == (-1.5, 2.0)
    assert [np.asarray(line.get_ydata()).item() for line in axis.lines[:2]] == [3.0, 4.0]


def test_every_claim_is_a_dot_in_the_line_of_its_paper_those_that_hold_first() -> None:
    (axis,) = plots.verdict_dots(CLAIMS).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["A says", "A, our controls", "B says"]
    drawn = {(x, y): line.get_color() for line in axis.lines for x, y in zip(*map(np.atleast_1d, line.get_data()), strict=True)}
    verdicts = {(0, 0): "reproduced", (1, 0): "reproduced", (2, 0): "not reproduced", (0, 1): "undecided", (0, 2): "not yet measured"}
    assert drawn == {place: VERDICTS[verdict] for place, verdict in verdicts.items()}


def test_bars_of_a_benchmark_are_its_ratios() -> None:
    ways = pd.DataFrame({"way": ["a", "b"], "ratio": [1.0, 2.0], "from": [1.0, 1.8], "to": [1.0, 2.2]})
    bars: list[Any] = list(plots.ladder(ways).axes[0].patches)
    assert [bar.get_width() for bar in bars] == [1.0, 2.0]


def test_bars_of_pruned_networks_are_means_over_seeds() -> None:
    arms, times = plots.pareto(ARMS, {"accuracy": "before"}).axes, plots.latency(TIMES).axes
    assert [axis.get_title() for axis in times] == ["1 image at a time", "128 images at a time"]
    andc = ARMS[ARMS.arm == "andc"].groupby("theta").accuracy.mean()
    blocks = TIMES[(TIMES.form == "blocks") & (TIMES.batch == 1)].groupby("theta").ratio.mean()
    drawn: list[Any] = [arms[0].containers[0], times[0].containers[0]]
    for bars, expected in zip(drawn, (100 * andc, blocks), strict=True):
        np.testing.assert_allclose(bars.lines[0].get_ydata().astype(float), expected)


def test_dots_stand_where_their_rows_say_and_rings_are_those_that_are_hollow() -> None:
    table = pd.DataFrame({"x": [0.1, 0.0, 0.5], "y": [0.2, 1.0, np.nan], "ring": [False, True, False]})
    (axis,) = plots.clouds(table, "x", "y", xlabel="", ylabel="", hollow="ring", hollow_name="r", odds=True).axes
    disc, ring = axis.lines[:2]
    assert (disc.get_xdata().tolist(), disc.get_ydata().tolist()) == ([0.1], [0.2])  # type: ignore[union-attr]
    assert (ring.get_xdata().tolist(), ring.get_ydata().tolist()) == ([0.005], [0.995])  # type: ignore[union-attr]
    assert ring.get_markerfacecolor() == "none"
    assert axis.get_xscale() == axis.get_yscale() == "logit"


def test_strips_are_in_the_order_of_their_means() -> None:
    table = pd.DataFrame({"error": [3.0, 5, 1, 2], "guess": ["b", "b", "a", "a"]})
    (axis,) = plots.strips(table, "error", "guess", xlabel="", strong=["a"]).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert [np.asarray(line.get_xdata()).tolist() for line in axis.lines] == [[1.5, 1.5], [1, 2], [4, 4], [3, 5]]
    assert to_hex(axis.lines[0].get_color()) == plots.COLORS["mha"]
    assert to_hex(axis.lines[2].get_color()) == CONTROL


@pytest.mark.parametrize("count", [1, 5, 10, 13])
def test_names_have_colours_of_their_own(count: int) -> None:
    names = [str(i) for i in range(count)]
    colors = plots.distinct(names)
    assert list(colors) == names
    assert len(set(colors.values())) == count
