"""Write what is read without importing torch, the methods' descriptions and the recipe's JSON schema: `python -m trimodal.planning`.

Run it after a change to a method's name, paper, idea or options, or to a recipe's keys; tests compare.
"""

from __future__ import annotations

import json
from pathlib import Path

from trimodal.catalogue import SCHEMA
from trimodal.methods.__main__ import write_catalogue
from trimodal.planning.recipe_schema import build_recipe_schema
from trimodal.writing import write_text_atomically

if __name__ == "__main__":
    write_catalogue()
    text = json.dumps(build_recipe_schema(), indent=1, ensure_ascii=False)
    write_text_atomically(Path(__file__).parents[1] / SCHEMA, f"{text}\n")
