"""What is written for other programs, read again by what they are read with."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from trimodal.errors import InputError, IntegrityError, OutputError
from trimodal.exporting.export import export
from trimodal.networks.tiny import write_miniature
from trimodal.packaging.bundle import check_image, check_name, make_name, read_bundle
from trimodal.packaging.package import KINDS, package
from trimodal.packaging.pins import list_pins
from trimodal.serving.limits import Limits

BAD_NAMES = [
    "a b", "a;rm -rf", "$(id)", "`id`", "a\nRUN id", "a'b", 'a"b', "a: b", "{a}", "a#b", "../a", "-a", "a-", "A", "a_b", "a.b", "*",
    "&a", "!a", "%", "a\\b", "é", "", "a" * 41, "a\0",
]  # fmt: skip
BAD_IMAGES = ["a b", "a;b", "$(id)", "a\nb", "A", "-a", "a@b", "'a'", "", "a" * 201]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = write_miniature("clip", tmp_path_factory.mktemp("packaged") / "clip")
    folder = source.parent / "see_and-read"
    export(str(source), "onnx", folder)
    return folder


@pytest.fixture(scope="module")
def packages(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("packages")
    for kind in KINDS:
        package(exported, place / kind, kind, replicas=3)
    return {kind: place / kind for kind in KINDS}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_a_shell_or_yaml_could_read_otherwise_are_refused(name: str, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--name"):
        check_name(name)
    with pytest.raises(InputError):
        package(exported, tmp_path / "out", "compose", name=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("image", BAD_IMAGES)
def test_images_that_are_none_are_refused(image: str) -> None:
    with pytest.raises(InputError, match="--image"):
        check_image(image)


def test_a_folders_name_becomes_one_that_may_be_used() -> None:
    assert make_name("See_Hear.Read__int8") == "see-hear-read-int8"
    assert check_image("registry.example.org/team/model:1.2") == "registry.example.org/team/model:1.2"


@pytest.mark.parametrize(("option", "number"), [("replicas", 0), ("replicas", 101), ("workers", -1), ("threads", 0)])
def test_numbers_that_cannot_be_are_refused(option: str, number: int, exported: Path) -> None:
    with pytest.raises(InputError, match=f"--{option}"):
        read_bundle(exported, **{option: number})


def test_only_folders_of_ours_are_packaged(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(InputError, match="no artifact"):
        package(tmp_path, tmp_path / "out", "docker")
    with pytest.raises(InputError, match="did you mean"):
        package(exported, tmp_path / "out", "kubernete")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputError):
        package(exported, tmp_path / "out", "ray")


def test_files_that_can_run_code_are_not_handed_over(tmp_path: Path, exported: Path) -> None:
    folder = tmp_path / "with-pickle"
    shutil.copytree(exported, folder)
    (folder / "weights.pkl").write_bytes(b"")
    with pytest.raises(IntegrityError, match="run code"):
        package(folder, tmp_path / "out", "docker")


def test_links_become_plain_files(tmp_path: Path, exported: Path) -> None:
    folder = tmp_path / "linked"
    shutil.copytree(exported, folder)
    shutil.move(folder / "config.json", tmp_path / "elsewhere")
    (folder / "config.json").symlink_to(tmp_path / "elsewhere")
    package(folder, tmp_path / "out", "ray", name="linked")
    copy = tmp_path / "out" / "models" / "linked" / "config.json"
    assert not copy.is_symlink() and copy.read_bytes() == (tmp_path / "elsewhere").read_bytes() and copy.stat().st_nlink == 1


def test_the_image_has_no_rights_and_pinned_packages(packages: dict[str, Path], exported: Path) -> None:
    folder = packages["docker"]
    lines = (folder / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines and not any(line.startswith(("ADD", "ENV TOKEN")) for line in lines)
    assert lines.index("USER 10001:10001") > max(i for i, line in enumerate(lines) if line.startswith(("COPY", "RUN")))
    (entry,) = [line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT ")]
    words = json.loads(entry)
    assert words[:5] == ["python", "-m", "trimodal", "serve", "see-and-read=/models/see-and-read"]
    assert any("/v2/health/ready" in line for line in lines) and "STOPSIGNAL SIGTERM" in lines
    pins = (folder / "requirements.txt").read_text().split()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin) for pin in pins)
    assert not any(pin.startswith(("torch==", "nvidia", "triton==")) for pin in pins)
    assert {"transformers", "uvicorn", "starlette", "onnxruntime", "h11"} <= {pin.partition("==")[0] for pin in pins}
    for file in exported.rglob("*"):
        if file.is_file():
            assert (folder / "models" / "see-and-read" / file.relative_to(exported)).read_bytes() == file.read_bytes()
    assert (folder / "app" / "trimodal" / "serving" / "processes" / "worker.py").is_file()
    assert not list(folder.rglob("__pycache__")) and not [file for file in folder.rglob("*") if file.is_symlink()]


def test_pins_are_what_is_installed() -> None:
    pins = list_pins(("h11", "uvicorn"), ())
    assert {pin.partition("==")[0] for pin in pins} == {"h11", "uvicorn", "click"}
    with pytest.raises(InputError, match="not installed"):
        list_pins(("no-such-package",), ())


def test_compose_starts_servers_without_rights_and_a_proxy_behind_them(packages: dict[str, Path]) -> None:
    found = yaml.safe_load((packages["compose"] / "compose.yaml").read_text())
    servers = [f"server-{number}" for number in (1, 2, 3)]
    assert list(found["services"]) == [*servers, "proxy"]
    for name in servers:
        service = found["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] == "10001:10001"
        assert "ports" not in service and "privileged" not in service
    proxy = found["services"]["proxy"]
    assert set(proxy["depends_on"]) == set(servers) and proxy["ports"] == ["127.0.0.1:8080:8080"]
    script = packages["compose"] / "update.sh"
    assert os.access(script, os.X_OK) and subprocess.run(["sh", "-n", script], check=False).returncode == 0


def test_nginx_takes_what_we_take_and_does_not_ask_again_where_we_are_full(packages: dict[str, Path]) -> None:
    text = (packages["compose"] / "nginx.conf").read_text()
    lines = [shlex.split(line.partition("#")[0].rstrip("; ")) for line in text.splitlines()]
    said = {words[0]: words[1:] for words in lines if len(words) > 1}
    limits = Limits()
    assert said["client_max_body_size"] == [f"{limits.body_bytes >> 20}m"] and said["proxy_buffering"] == ["off"]
    assert said["client_header_timeout"] == ["10s"] and said["proxy_read_timeout"] == ["65s"] and said["proxy_next_upstream_tries"] == ["4"]
    assert said["proxy_next_upstream"] == ["error", "timeout", "http_503", "non_idempotent"]
    assert text.count("server server-") == 6 and text.count("backup max_fails=0") == 3


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_reads_its_configuration(tmp_path: Path, exported: Path) -> None:
    from trimodal.packaging.compose import write_nginx

    file = tmp_path / "nginx.conf"
    servers = ["127.0.0.1:8001", "127.0.0.1:8002"]
    file.write_text(write_nginx(read_bundle(exported), servers, listen="127.0.0.1:8003", user="", folder=str(tmp_path)))
    done = subprocess.run(["nginx", "-t", "-c", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_manifests_hold_to_the_schema_of_kubernetes(packages: dict[str, Path]) -> None:
    import kubernetes_validate

    for file in ("deployment.yaml", "service.yaml", "autoscaler.yaml", "disruption.yaml"):
        kubernetes_validate.validate(yaml.safe_load((packages["kubernetes"] / file).read_text()), "1.31", strict=True)


def test_a_pod_has_probes_limits_and_no_rights(packages: dict[str, Path]) -> None:
    spec = yaml.safe_load((packages["kubernetes"] / "deployment.yaml").read_text())["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")]
    assert paths == ["/v2/health/ready", "/v2/health/live"]
    assert container["securityContext"]["readOnlyRootFilesystem"] and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert container["resources"]["limits"] == container["resources"]["requests"] and spec["replicas"] == 3
    assert pod["terminationGracePeriodSeconds"] > Limits().drain_seconds + 5 and container["lifecycle"]["preStop"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    resources = yaml.safe_load((packages["kubernetes"] / "kustomization.yaml").read_text())["resources"]
    assert all((packages["kubernetes"] / name).is_file() for name in resources)


def test_triton_reads_what_each_component_takes(packages: dict[str, Path]) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

    models = packages["triton"] / "models"
    assert sorted(one.name for one in models.iterdir()) == ["see-and-read-text-model", "see-and-read-vision-model"]
    for place in models.iterdir():
        config = text_format.Parse((place / "config.pbtxt").read_text(), ModelConfig())
        assert config.name == place.name and config.backend == "onnxruntime" and config.max_batch_size == Limits().batch
        assert (place / "1" / config.default_model_filename).is_file()
        assert config.dynamic_batching.default_queue_policy.max_queue_size == Limits().queue
        types = {one.name: (DataType.Name(one.data_type), list(one.dims)) for one in config.input}
        if "pixel_values" in types:
            assert types["pixel_values"] == ("TYPE_FP32", [3, 32, 32])
        else:
            assert types["input_ids"] == ("TYPE_INT64", [-1])


def test_triton_needs_onnx_files(tmp_path: Path, packages: dict[str, Path]) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "trimodal.json").write_text("{}")
    with pytest.raises(InputError, match="--to onnx"):
        package(folder, tmp_path / "out", "triton")


def test_ray_is_told_bounds_in_place_of_its_defaults(packages: dict[str, Path]) -> None:
    found = yaml.safe_load((packages["ray"] / "serve_config.yaml").read_text())
    (application,) = found["applications"]
    (deployment,) = application["deployments"]
    limits = Limits()
    assert deployment["max_ongoing_requests"] == limits.batch + limits.queue and deployment["max_queued_requests"] == limits.connections
    assert deployment["backpressure_config"] == {"status_code": 429, "retry_after_s": 1}
    assert found["http_options"]["request_timeout_s"] == limits.request_seconds + 5 and found["http_options"]["host"] == "127.0.0.1"
    assert application["args"]["folders"] == ["models/see-and-read"] and (packages["ray"] / "models/see-and-read/config.json").is_file()
    module, _, function = application["import_path"].partition(":")
    assert function in (packages["ray"] / f"{module}.py").read_text()


def test_the_page_beside_the_files_tells_how_large_the_model_is_there(packages: dict[str, Path], exported: Path) -> None:
    """Triton gets the ONNX files alone, the others the folder; a cluster needs an image that it can pull."""
    for kind, under, pattern in (("triton", "models", "*.onnx*"), ("docker", "models", "*"), ("kubernetes", "server/models", "*")):
        size = sum(file.stat().st_size for file in (packages[kind] / under).rglob(pattern) if file.is_file())
        assert f"{size:,} bytes of them the model's" in (packages[kind] / "README.md").read_text(), kind
    assert "--image registry.example.org" in (packages["kubernetes"] / "README.md").read_text()
