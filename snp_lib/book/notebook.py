"""An executed notebook as it is committed."""

from __future__ import annotations

import json
import re
from typing import Any


def tidy(notebook: dict[str, Any]) -> str:
    """An executed notebook as committed: without what papermill adds, without times, widgets without their defaults."""
    notebook["metadata"].pop("papermill", None)
    notebook["cells"] = [c for c in notebook["cells"] if "injected-parameters" not in c["metadata"].get("tags", [])]
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
    for widgets in notebook["metadata"].get("widgets", {}).values():
        for model in widgets["state"].values():
            model["state"] = {key: value for key, value in model["state"].items() if value is not None}
        widgets["state"] = _named_in_order(notebook, widgets["state"])
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _named_in_order(notebook: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """Widget models renamed by where they stand, so that the same widgets give the same text; views in cells follow.

    First those shown and what they contain, then those that link them, by what they link.
    """
    refers = {name: re.findall(r"IPY_MODEL_(\w+)", json.dumps(model, sort_keys=True)) for name, model in state.items()}
    views = [
        output["data"]["application/vnd.jupyter.widget-view+json"]
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    names: dict[str, str] = {}

    def visit(name: str) -> None:
        waiting = [name]
        while waiting:
            if (current := waiting.pop()) in state and current not in names:
                names[current] = f"{len(names):032x}"
                waiting.extend(reversed(refers[current]))

    def standing(name: str) -> tuple[list[str], str]:
        return [names.get(other, "") for other in refers[name]], json.dumps(state[name], sort_keys=True)

    for view in views:
        visit(view["model_id"])
    for name in sorted((name for name in state if name not in names), key=standing):
        visit(name)
    for view in views:
        view["model_id"] = names.get(view["model_id"], view["model_id"])
    text = re.sub(r"IPY_MODEL_(\w+)", lambda match: f"IPY_MODEL_{names.get(match[1], match[1])}", json.dumps(state))
    renamed = {names[name]: model for name, model in json.loads(text).items()}
    return dict(sorted(renamed.items()))
