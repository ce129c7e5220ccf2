"""Rows 68 to 77: folders and names that must not be served, given to the real command line in a process of its own."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row
from benchmarks.serving.bad_inputs.models import write_export, write_graph
from benchmarks.serving.running import end, make_command, make_surroundings

_AT_ONCE, _PATIENCE = 2, 120
_REFUSED = (1, 2)
"""Exit codes as docs/guide.md has them: 2 for what was given, 1 for a folder that is not what it says it is."""
Change = Callable[[Path], object]


def list_rows() -> list[Row]:
    """The rows."""
    return [*_list_codes(), *_list_graphs(), *_list_tensors(), *_list_packed(), *_list_manifests(), *_list_names()]


def begin_all(rows: list[Row], place: Place) -> dict[tuple[int, str], Any]:
    """Two at a time, since each is a process that imports torch."""
    pool = ThreadPoolExecutor(_AT_ONCE)
    cases = [(row.number, case) for row in rows for case in row.cases if not (place.quick and case.extra) and case.attempt is not None]
    found = {(number, case.label): pool.submit(_attempt, case, place) for number, case in cases}
    pool.shutdown(wait=False)
    return found


def _attempt(case: Case, place: Place) -> Found:
    assert case.attempt is not None
    try:
        return case.attempt(place)
    except Exception as failed:  # told in the table
        return Found("broke", f"{type(failed).__name__}: {failed}"[:300])


def serve(*arguments: str, command: list[str] | None = None) -> Found:
    """Run `trimodal serve`; refused is what ends by itself with a line that says why."""
    process = subprocess.Popen(
        command or [*make_command(*arguments), "--port", "0", "--workers", "1", "--threads", "1"], env=make_surroundings(),
            stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, process_group=0,
    )  # fmt: skip
    try:
        said = process.communicate(timeout=_PATIENCE)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        end(process)
        return Found("SERVED", "it is served")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    fault = ""
    if process.returncode not in _REFUSED:
        fault = f"exit code {process.returncode}: {last[:200]}"
    elif "Traceback (most recent" in said:
        fault = f"a traceback: {last[:200]}"
    elif not re.search(r"[a-z]{3,} [a-z]", last):
        fault = f"no words: {last[:200]!r}"
    return Found(f"exit {process.returncode}", fault)


def _spoil(source: str, change: Change, named: str = "") -> Callable[[Place], Found]:
    """A copy of one of the models, changed, and served."""

    def attempt(place: Place) -> Found:
        folder = place.scratch / f"bad{id(change)}" / (named or "model")
        shutil.copytree(place.models[source], folder)
        change(folder)
        return serve(str(folder))

    return attempt


def _case(label: str, source: str, change: Change, extra: bool = True) -> Case:
    return Case(label, attempt=_spoil(source, change), extra=extra)


def _list_codes() -> list[Row]:
    code = pickle.dumps({"weights": [1.0]})

    def only_pickle(folder: Path) -> None:
        shutil.rmtree(folder / "onnx")
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(code)

    def renamed(folder: Path) -> None:
        shutil.rmtree(folder / "onnx")
        (folder / "model.safetensors").write_bytes(code)

    def listed(data: bytes) -> Change:
        def change(folder: Path) -> None:
            (folder / "add.onnx").write_bytes(data)
            _list_anew(folder)

        return change

    def with_map(folder: Path) -> None:
        shutil.rmtree(folder / "onnx")
        said = json.loads((folder / "config.json").read_text())
        said |= {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}, "architectures": ["EvilModel"], "model_type": "evil"}
        (folder / "config.json").write_text(json.dumps(said))
        (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(folder / 'RAN')!r}).touch()\n")

    def ran(place: Place) -> Found:
        folder = place.scratch / "mapped"
        shutil.copytree(place.models["clip"], folder)
        with_map(folder)
        found = serve(str(folder))
        return Found(found.said, "its code was run" if (folder / "RAN").exists() else found.fault)

    return [
        Row(68, "pickles, archives and arrays of objects in a folder", "refused by suffix and first bytes", [
            *(_case(f"onnx/{name}", "tensors", lambda folder, name=name: (folder / name).write_bytes(code), name != "a.pkl")
              for name in ("a.pkl", "a.pt", "a.pth", "a.bin", "a.npy", "a.joblib", "a.keras", "a")),
            _case("listed, a pickle", "tensors", listed(code), False), _case("listed, a zip", "tensors", listed(b"PK\x03\x04" + bytes(99))),
            _case("listed, npy", "tensors", listed(b"\x93NUMPY\1\0" + bytes(99))), _case("pytorch_model.bin alone", "clip", only_pickle),
            _case("a pickle called model.safetensors", "clip", renamed),
            _case("beside an artifact", "artifact", lambda folder: (folder / "a.pkl").write_bytes(code)),
        ]),
        Row(69, "trust_remote_code, auto_map, an entry point in the config", "never run, told", [Case("auto_map", attempt=ran)]),
    ]  # fmt: skip


def _list_anew(folder: Path) -> None:
    """Bring the list of an exported folder to what lies there now, as an attacker would."""
    from trimodal.writing.sums import sha256

    said = json.loads((folder / "export.json").read_text())
    said["files"] = {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.name != "export.json"}
    (folder / "export.json").write_text(json.dumps(said))


def _list_graphs() -> list[Row]:
    def outside(location: str, prepare: Change) -> Change:
        """`add` reads its table from `location`, and the list is right."""

        def change(folder: Path) -> None:
            prepare(folder)
            write_graph_with_data(folder, location)

        return change

    def write_secret(folder: Path) -> None:
        (folder.parent / "secret.bin").write_bytes(bytes(12))

    def link_secret(folder: Path) -> None:
        write_secret(folder)
        (folder / "data.bin").symlink_to(folder.parent / "secret.bin")

    def hard_link(folder: Path) -> None:
        write_secret(folder)
        os.link(folder.parent / "secret.bin", folder / "data.bin")

    def broken(data: bytes) -> Change:
        def change(folder: Path) -> None:
            (folder / "add.onnx").write_bytes(data)
            _list_anew(folder)

        return change

    def huge(folder: Path) -> None:
        write_graph_with_data(folder, "", dims=(2**40, 2**20))

    def custom(folder: Path) -> None:
        from onnx import TensorProto, helper

        node = helper.make_node("Evil", ["a"], ["b"], domain="evil.ops")
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("a", "b")]
        write_export(folder, [write_graph(folder, "add", helper.make_graph([node], "g", values[:1], values[1:]), {"a": [1]}, {"b": [1]})])
        _remove_others(folder)

    return [
        Row(70, "external data at ../x or an absolute path", "refused", [
            _case("../secret.bin", "tensors", outside("../secret.bin", write_secret), False),
            _case("/etc/hostname", "tensors", outside("/etc/hostname", write_secret)),
        ]),
        Row(71, "external data by a symlink", "refused", [_case("a link that leads out", "tensors", outside("data.bin", link_secret),
            False)]),
        Row(72, "external data by a hard link", "refused", [_case("a file that is also elsewhere", "tensors", outside("data.bin",
            hard_link), False)]),
        Row(73, "an ONNX file that is huge, garbage, empty, or has operators of its own", "a clean error", [
            _case("dimensions of 2^60", "tensors", huge, False), _case("garbage", "tensors", broken(b"\x08\xff" * 500)),
            _case("empty", "tensors", broken(b"")),
            _case("an operator of its own", "tensors", custom), _case("text", "tensors", broken(b"hello world" * 9)),
        ]),
    ]  # fmt: skip


def write_graph_with_data(folder: Path, location: str, dims: tuple[int, ...] = (3,)) -> None:
    """A graph in place of the three whose table lies at `location`; without one, whose table only says to be of `dims`."""
    from onnx import TensorProto, helper

    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=list(dims))
    if location:
        table.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "12")):
            table.external_data.add(key=key, value=value)
    else:
        table.raw_data = bytes(12)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch_size", 3]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "table"], ["b"])], "g", values[:1], values[1:], [table])
    part = write_graph(folder, "add", graph, {"a": ["batch_size", 3]}, {"b": ["batch_size", 3]})
    _remove_others(folder)
    write_export(folder, [part])
    _list_anew(folder) if (folder / "data.bin").is_file() else None


def _remove_others(folder: Path) -> None:
    for name in ("look.onnx", "spin.onnx"):
        (folder / name).unlink(missing_ok=True)


def _list_tensors() -> list[Row]:
    def head(text: str, data: bytes = b"", length: int | None = None) -> Change:
        raw = text.encode()

        def change(folder: Path) -> None:
            shutil.rmtree(folder / "onnx")
            (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)

        return change

    one = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'

    def twice(folder: Path) -> None:
        shutil.rmtree(folder / "onnx")
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        text = raw[8 : 8 + length].decode().rstrip()
        name, said = next((key, value) for key, value in json.loads(text).items() if key != "__metadata__")
        changed = f"{text[:-1]},{json.dumps(name)}:{json.dumps(said)}}}".encode()
        file.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])

    return [
        Row(74, "safetensors that are short, lie about their head, overflow, name a tensor twice", "a clean error", [
            _case("4 bytes", "clip", lambda folder: (shutil.rmtree(folder / "onnx"), (folder / "model.safetensors").write_bytes(b"abcd"))),
            _case("a head of 2^63", "clip", head("{}", length=2**63)), _case("a head of 200 MB", "clip", head("{}", length=200_000_000)),
            _case("data cut short", "clip", head(one, b"\0\0")), _case("a shape that overflows", "clip", head(
                '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', bytes(4))),
            _case("offsets that cross", "clip", head('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', bytes(4))),
            _case("a name twice", "clip", twice, False),
        ]),
    ]  # fmt: skip


def _list_packed() -> list[Row]:
    def pack(label: str, write: Callable[[Path], object], extra: bool = True) -> Case:
        def attempt(place: Place) -> Found:
            file = place.scratch / f"packed{abs(hash(label))}"
            write(file)
            unpack = [*make_command()[:-1], "unpack", str(file), "-o", f"{file}.out"]
            found = serve(command=unpack) if label.startswith("ours") else serve(str(file))
            escaped = (place.scratch / "escaped.txt").exists() or Path("/tmp/escaped.txt").exists()
            return Found(found.said, "a file was written outside" if escaped else found.fault)

        return Case(label, attempt=attempt, extra=extra)

    def write_zip(name: str, data: bytes = b"a") -> Callable[[Path], object]:
        def write(file: Path) -> None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(name, data)

        return write

    def write_tar(name: str, link: str = "") -> Callable[[Path], object]:
        def write(file: Path) -> None:
            with tarfile.open(file, "w") as archive:
                member = tarfile.TarInfo(name)
                member.type, member.linkname, member.size = (tarfile.SYMTYPE, link, 0) if link else (tarfile.REGTYPE, "", 1)
                archive.addfile(member, None if link else io.BytesIO(b"a"))

        return write

    def write_ours(*names: str) -> Callable[[Path], object]:
        def write(file: Path) -> None:
            from trimodal.formats.chunks import ChunkWriter

            with file.open("wb") as sink:
                writer = ChunkWriter(sink)
                writer.write_chunk(b"HEAD", json.dumps({"format": 1, "trimodal": "1", "files": dict.fromkeys(names, 1)}).encode())
                writer.finish()

        return write

    return [
        Row(75, "zip or tar that leads out, links, bombs, names that differ by case", "refused", [
            pack("zip, ../escaped.txt", write_zip("../escaped.txt"), False), pack("zip, /tmp/escaped.txt", write_zip("/tmp/escaped.txt")),
            pack("zip bomb", write_zip("a", bytes(10**8))), pack("tar, ../escaped.txt", write_tar("../escaped.txt")),
            pack("tar, a link out", write_tar("a", "/etc")), pack("ours, unpack ../escaped.txt", write_ours("../escaped.txt"), False),
            pack("ours, two names that differ by case", write_ours("a", "A")),
        ], "archives are not served; folders are"),
    ]  # fmt: skip


def _list_manifests() -> list[Row]:
    def say(**changed: Any) -> Change:
        def change(folder: Path) -> None:
            said = json.loads((folder / "export.json").read_text())
            (folder / "export.json").write_text(json.dumps({**said, **changed}))

        return change

    def component(**changed: Any) -> Change:
        def change(folder: Path) -> None:
            said = json.loads((folder / "export.json").read_text())
            said["components"][0] |= changed
            (folder / "export.json").write_text(json.dumps(said))

        return change

    def flip(folder: Path) -> None:
        file = folder / "add.onnx"
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")

    def seal(folder: Path) -> None:
        file = folder / "trimodal.json"
        file.write_text(file.read_text().replace('"format":3', '"format":99'))

    def unseal(folder: Path) -> None:
        file = folder / "trimodal.json"
        file.write_text(file.read_text().replace('"trimodal":', '"trimodal" :'))

    return [
        Row(76, "a manifest with a wrong sum, a file missing or too many, a later format, odd names and limits", "refused", [
            _case("another byte", "tensors", flip, False), _case("a file missing", "tensors",
            lambda folder: (folder / "add.onnx").unlink()),
            _case("a file too many", "tensors", lambda folder: (folder / "new.onnx").write_bytes(b"a")),
            _case("a later format", "tensors", say(format=99)),
            _case("no format", "tensors", say(format=None)), _case("components null", "tensors", say(components=None)),
            _case("no components", "tensors", say(components=[])),
            _case("a file outside", "tensors", say(files={"../../x": "a"})),
            _case("a name with a slash", "tensors", component(name="../add")),
            _case("a name with a line break", "tensors", component(name="a\nb")),
            _case("negative lengths", "tensors", component(inputs={"floats": [-7, 3]})),
            _case("a length of 2^70", "tensors", component(inputs={"floats": ["batch_size", 2**70]})),
            _case("no JSON", "tensors", lambda folder: (folder / "export.json").write_bytes(b"{")),
            _case("a million deep", "tensors", lambda folder: (folder / "export.json").write_text("[" * 10**6)),
            _case("an artifact of a later format", "artifact", seal), _case("an artifact that was changed", "artifact", unseal, False),
        ]),
    ]  # fmt: skip


def _list_names() -> list[Row]:
    def package(*arguments: str) -> Callable[[Place], Found]:
        def attempt(place: Place) -> Found:
            command = [*make_command()[:-1], "package", str(place.models["tensors"]), "-o",
                str(place.scratch / f"package{abs(hash(arguments))}")]
            return serve(command=[*command, "--for", "compose", *arguments])

        return attempt

    names = ("a;reboot", "$(id)", "`id`", "a b", "../a", "a\nRUN id", "a'b", 'a"b', "${HOME}", "-rf")
    return [
        Row(77, "marks of shells and Dockerfiles in names", "refused or quoted", [
            *(Case(f"serve {name!r}", attempt=lambda place, name=name: serve(f"{name}={place.models['tensors']}"),
            extra=name != "a;reboot") for name in names),
            *(Case(f"package --name {name!r}", attempt=package(f"--name={name}"), extra=name != "a;reboot") for name in names[:6]),
            Case("package --image 'a\\nRUN id'", attempt=package("--image=a\nRUN id")),
        ]),
    ]  # fmt: skip
