"""preprocessor_config.json, which transformers.js reads: Transformers 5 saves combined processors in processor_config.json alone."""

from __future__ import annotations

import json
from pathlib import Path

from trimodal.core import json_text

_NESTED, _FLAT = "processor_config.json", "preprocessor_config.json"
_PARTS = ("feature_extractor", "image_processor")  # the later one decides where both have a key, as in files of Transformers 4


def write_flat_processor(folder: Path) -> None:
    """Write the parts of `folder`'s processor_config.json into a preprocessor_config.json, with the processor's class; a file that is
    there stays. Without parts to write there is none."""
    if (folder / _FLAT).exists() or not (folder / _NESTED).exists():
        return
    nested = json.loads((folder / _NESTED).read_text(encoding="utf-8"))
    flat = {key: value for part in _PARTS for key, value in nested.get(part, {}).items()}
    if not flat:
        return
    if "processor_class" in nested:
        flat["processor_class"] = nested["processor_class"]
    (folder / _FLAT).write_text(json_text(flat, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
