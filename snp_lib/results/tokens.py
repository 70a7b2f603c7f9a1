"""Which tokens drive the nodes of a run, in the words of its data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from snp_lib import data
from snp_lib.performance import THETA, summarize
from snp_lib.performance.tokens import token_effects
from snp_lib.results.setting import Measurement, Setting
from snp_lib.store import Run
from snp_lib.store.derived import Arrays

MOST = 5
"""Tokens that are kept of each node."""


@dataclass(frozen=True, kw_only=True)
class DrivingTokens(Measurement):
    """The tokens that raise each node of the last ``mha`` site most, in the direction of the label that it recognises best.

    The effect of a token is how far the test inputs that hold it lie from all of them, see
    :func:`snp_lib.performance.tokens.token_effects`. A node speaks for a label through its feature times its weight in the readout:
    where the weight of the label with the largest diagonal element is negative, effects change their sign.

    Arrays by name: ``label`` (node,), that label; ``tokens`` (node, ``MOST``) as text and ``effects`` (node, ``MOST``), the largest first;
    ``shuffled`` (node,), the largest effect where the features of all inputs are dealt anew to their tokens.

    Attributes:
        fewest: inputs that a token must be in.

    Raises:
        StoreError: the weights of the run are not here.
        ValueError: the inputs are no tokens, or too few of them are in so many inputs.
    """

    fewest: int = 10
    what: ClassVar[str] = "tokens"

    def name(self, run: Run) -> str:
        return "driving-tokens"

    def options(self, run: Run) -> dict[str, Any]:
        return {"fewest": self.fewest, "most": MOST}

    def compute(self, setting: Setting) -> Arrays:
        run, vocabulary, test = setting.run, setting.dataset.vocabulary, setting.dataset.test
        if vocabulary is None:
            raise ValueError(f"the inputs of {setting.dataset.name} are no tokens")
        site = run.sites_of("mha")[-1]
        readout = run.readouts()[site].to(setting.torch_device)
        parts = []
        with torch.no_grad():
            for inputs, _ in test.batches(setting.passes["batch_size"]):
                prepared = setting.prepare(inputs.to(setting.torch_device))
                features = setting.network(prepared, sites=[site])[1][site]
                parts.append(readout.pool(features.float(), setting.network.mask(prepared)).cpu())
        pooled, tokens = torch.cat(parts).numpy(), test.inputs.numpy()
        diagonal = np.diagonal(run.matrices(site), axis1=1, axis2=2)
        label = diagonal.argmax(axis=1)
        sign = np.sign(readout.linear.weight.detach().cpu().numpy()[label, np.arange(len(label))])
        effects = sign * token_effects(pooled, tokens, len(vocabulary), fewest=self.fewest)
        order = np.random.default_rng(run.experiment.seed).permutation(len(tokens))
        shuffled = sign * token_effects(pooled, tokens[order], len(vocabulary), fewest=self.fewest)
        often = np.flatnonzero(np.isfinite(effects[:, 0]))
        if len(often) < MOST:
            raise ValueError(f"{len(often)} tokens are in {self.fewest} test inputs or more; {MOST} are needed")
        best = often[np.argsort(-effects[often], axis=0, kind="stable")[:MOST]].T
        return {
            "label": label,
            "tokens": np.array(vocabulary)[best],
            "effects": np.take_along_axis(effects.T, best, axis=1).astype(np.float32),
            "shuffled": np.nanmax(shuffled[often], axis=0).astype(np.float32),
        }


def tokens_of(run: Run) -> list[Measurement]:
    """The tokens that drive a run's nodes, where its inputs are tokens and it has heads."""
    return [DrivingTokens()] if data.source(run.experiment.dataset).tokens and run.sites_of("mha") else []


def driven_nodes(run: Run, *, most: int = 8, theta: float = THETA) -> pd.DataFrame:
    """The nodes of the last ``mha`` site that a single token drives most, as text to print.

    Args:
        most: nodes shown, no two for one label.

    Returns:
        Columns node (its number, from 0), tokens (the largest effect first), effect (of the first one, in standard deviations), label,
        the one that it recognises best, cluster, the other labels of its cluster at θ, and labels, how many it recognises in all.
    """
    arrays, rows, shown = DrivingTokens().read(run), list[dict[str, Any]](), set[int]()
    summary = summarize(run.matrices(run.sites_of("mha")[-1]), theta)
    for node in np.argsort(-arrays["effects"][:, 0], kind="stable").tolist():
        label = int(arrays["label"][node])
        if label in shown or not summary.diagonal[node, label] or len(rows) == most:
            continue
        shown.add(label)
        together = [run.class_names[each] for each in np.flatnonzero(summary.cluster_of[node] == summary.cluster_of[node, label])]
        together.remove(run.class_names[label])
        row = {"node": node, "tokens": " ".join(arrays["tokens"][node].tolist()), "effect": float(arrays["effects"][node, 0])}
        row |= {
            "label": run.class_names[label],
            "cluster": ", ".join(together[:3]) + (f" and {len(together) - 3} more" if together[3:] else ""),
        }
        rows.append(row | {"labels": int(summary.labels_of_unit[node])})
    return pd.DataFrame(rows)


def largest_effects(runs: Sequence[Run]) -> pd.DataFrame:
    """The largest effect of a token on a node, mean over nodes, and by chance: columns seed, inputs (as they are, shuffled), effect."""
    rows = []
    for run in runs:
        arrays = DrivingTokens().read(run)
        for inputs, effects in (("as they are", arrays["effects"][:, 0]), ("shuffled", arrays["shuffled"])):
            rows.append({"seed": run.experiment.seed, "inputs": inputs, "effect": float(effects.mean())})
    return pd.DataFrame(rows)
