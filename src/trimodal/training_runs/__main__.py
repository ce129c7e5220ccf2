"""Print the JSON schema of a training configuration, for editors: `python -m trimodal.training_runs`."""

from __future__ import annotations

import json

from trimodal.training_runs.config_file import build_train_schema

if __name__ == "__main__":
    print(json.dumps(build_train_schema(), indent=1, ensure_ascii=False))
