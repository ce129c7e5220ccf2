"""Write the recipe's JSON schema where it can be printed without importing torch: `python -m trimodal.planning`.

Run it after a change to a method's options, its idea, or a recipe's keys; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path

from trimodal.catalogue import SCHEMA
from trimodal.planning.recipe_schema import build_recipe_schema
from trimodal.writing import write_text_atomically

if __name__ == "__main__":
    text = json.dumps(build_recipe_schema(), indent=1, ensure_ascii=False)
    write_text_atomically(Path(__file__).parents[1] / SCHEMA, f"{text}\n")
