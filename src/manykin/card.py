"""The model card: a Markdown file with the hub's header that says what a run is, from what it was made, and what its numbers mean."""

import json
from collections.abc import Mapping
from typing import Any

from manykin.contract import OPTIONAL, GenerativeModel
from manykin.training.device import count_parameters


def render(name: str, model: GenerativeModel, config: Mapping[str, Any]) -> str:
    """The card of one run, from the content of its ``config.json``."""
    data, result = config.get("data") or {}, config.get("result") or {}
    density = model.density
    likelihood = "none: it can only sample" if density is None else str(density)
    able = ", ".join(verb for verb, protocol in OPTIONAL.items() if isinstance(model, protocol)) or "nothing more"
    condition = "nothing" if model.condition is None else str(model.condition)
    facts = {
        "model": f"`{name}` ({model.family})",
        "space": str(model.space),
        "conditioned on": condition,
        "likelihood": likelihood,
        "besides sampling": able,
        "parameters": f"{count_parameters(model):,}",
        "transform": " → ".join(config.get("transform") or []) or "none",
        "data": str(data.get("name", "unknown")),
        "data licence": str(data.get("licence") or "not stated"),
        "data sha256": str(data.get("sha256", "unknown")),
        "seed": str(config.get("seed", 0)),
    }
    facts.update({key: _short(value) for key, value in result.items()})
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    options = json.dumps(config["model"]["config"], indent=2)
    source = f"\nMethod: {model.paper}\n" if model.paper else ""
    rows_warning = "\n**This file holds training rows**: whoever has the weights has them.\n" if model.stores_rows else ""
    header = json.dumps({"library_name": "manykin", "tags": ["generative", model.family, name]})
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in json.loads(header).items())
    return (
        f"---\n{front}\n---\n# {name} on {data.get('name', 'own data')}\n{source}{rows_warning}\n| | |\n| --- | --- |\n{rows}\n\n"
        f'```python\nimport manykin as mk\n\nfitted = mk.from_pretrained("PATH")\nfitted.sample(8, seed=0)\n```\n\n'
        f"## Options\n```json\n{options}\n```\n"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
