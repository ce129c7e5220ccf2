"""Ray's own schema reads the configuration, where Ray is installed (`make ray`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trimodal.errors import InputError
from trimodal.packaging.bundle import Bundle
from trimodal.packaging.ray import describe_serve
from trimodal.packaging.writing import write_yaml
from trimodal.serving.ray_engine.run import RAY

_PROGRAM = """
import sys, yaml
from ray.serve.schema import ServeDeploySchema
found = ServeDeploySchema.parse_obj(yaml.safe_load(open(sys.argv[1])))
deployment = found.applications[0].deployments[0]
print(deployment.max_ongoing_requests, deployment.max_queued_requests, deployment.backpressure_config.status_code, found.http_options.port)
"""


@pytest.mark.slow
def test_ray_reads_its_configuration(tmp_path: Path) -> None:
    try:
        python = RAY.find_python()
    except InputError:
        pytest.skip("Ray is not installed")
    bundle = Bundle(tmp_path, "see-hear", "see-hear:1")
    (tmp_path / "serve.yaml").write_text(write_yaml(describe_serve(bundle, "models/see-hear", "see-hear", "serve_module:build")))
    done = subprocess.run([python, "-c", _PROGRAM, str(tmp_path / "serve.yaml")], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["272", "1024", "429", "8080"], done.stderr[-2000:]
