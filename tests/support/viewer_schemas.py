"""The JSON Schemas of the public viewers, where they are beside this checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def check(value: Any, name: str) -> None:
    """Validate against `neuronpedia_{name}-schema.json`; skips visibly where that is not."""
    path = FOLDER / f"neuronpedia_{name}-schema.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    schema = json.loads(path.read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    validator.check_schema(schema)
    validator.validate(json.loads(json.dumps(value, allow_nan=False)))
