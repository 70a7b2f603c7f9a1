"""An executed notebook is stored as the same text whenever it holds the same things."""

from __future__ import annotations

import copy
import json
import re
import uuid
from typing import Any

import nbformat

from snp_lib.paths import BOOK
from snp_lib.reproduce import tidy

WIDGETS = "application/vnd.jupyter.widget-state+json"


def stored(name: str) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads((BOOK / name).read_text())
    return notebook


def with_fresh_ids(notebook: dict[str, Any]) -> dict[str, Any]:
    """As another execution would name the widgets: at random, sorted by name."""
    fresh = {name: uuid.uuid4().hex for name in notebook["metadata"]["widgets"][WIDGETS]["state"]}
    renamed: dict[str, Any] = json.loads(re.sub("|".join(fresh), lambda match: fresh[match[0]], json.dumps(notebook)))
    widgets = renamed["metadata"]["widgets"][WIDGETS]
    widgets["state"] = dict(sorted(widgets["state"].items()))
    return renamed


def test_widgets_named_anew_give_the_same_text() -> None:
    notebook = stored("02_snp_matrices.ipynb")
    assert tidy(with_fresh_ids(notebook)) == tidy(with_fresh_ids(notebook))


def test_renaming_keeps_every_widget_and_what_it_refers_to() -> None:
    before = with_fresh_ids(stored("02_snp_matrices.ipynb"))
    after = json.loads(tidy(copy.deepcopy(before)))
    old, new = (n["metadata"]["widgets"][WIDGETS]["state"] for n in (before, after))
    assert len(old) == len(new) > 100
    assert all(name in new for name in re.findall(r"IPY_MODEL_(\w+)", json.dumps(new)))
    views = [
        output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for cell in after["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    assert views
    assert all(view in new for view in views)
    kinds = [sorted(model["model_name"] for model in state.values()) for state in (old, new)]
    assert kinds[0] == kinds[1]


def test_what_papermill_adds_is_left_out_and_the_rest_is_kept() -> None:
    cells = [{"cell_type": "code", "metadata": {"papermill": {}, "tags": ["x"]}, "source": "1", "outputs": []}]
    cells.append({"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": "a = 2", "outputs": []})
    notebook = {"metadata": {"papermill": {"duration": 3}, "kernelspec": {}}, "cells": cells, "nbformat": 4, "nbformat_minor": 5}
    kept = json.loads(tidy(notebook))
    assert kept["metadata"] == {"kernelspec": {}}
    assert [(cell["source"], cell["metadata"]) for cell in kept["cells"]] == [("1", {"tags": ["x"]})]


def test_stored_chapters_are_tidy() -> None:
    for path in sorted(BOOK.glob("[0-9]*.ipynb")):
        assert tidy(json.loads(path.read_text())) == path.read_text(), f"{path.name}: run `snp reproduce {path.stem} --in-place`"
        nbformat.validate(nbformat.read(path, 4))
