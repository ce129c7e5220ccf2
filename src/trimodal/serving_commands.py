"""The sub-commands that serve: `serve`, and `package`, which writes what other engines serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trimodal.application import add_command, print_result
from trimodal.arguments import ForceOption, JsonOption, OutputOption
from trimodal.lazy import lazy_module

if TYPE_CHECKING:
    from trimodal.packaging import package as packages
    from trimodal.serving.processes import command
else:
    command, packages = lazy_module("trimodal.serving.processes.command"), lazy_module("trimodal.packaging.package")

_FOLDERS = "Folders that `trimodal compress` or `trimodal export` wrote, each as FOLDER or NAME=FOLDER."


@add_command
def serve(
    folders: Annotated[list[str], typer.Argument(metavar="OUT [OUT2 …]", help=_FOLDERS, show_default=False)],
    port: Annotated[int, typer.Option("--port", "-p", help="For HTTP; 0 for any that is free.")] = 8080,
    host: Annotated[str, typer.Option("--host", help="Address to listen at; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="For gRPC, where that is wanted.", show_default=False)] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that answer; by default two, if there are processors.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Of each worker; by default its share of the processors.", show_default=False)
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="What runs the workers: this program, or Ray Serve.")
    ] = "local",
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="File with one key per line, any of which clients must send.", show_default=False),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", help="A name by which clients may call the server (may be repeated).", show_default=False),
    ] = None,
    log: Annotated[
        Literal["text", "json"], typer.Option("--log", help="How events are written, one per line on standard error.")
    ] = "text",
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", help="That requests under way have when the server is told to end.")
    ] = 30.0,
    queue: Annotated[int, typer.Option("--queue", help="Samples that may wait per worker; more are refused with 429.")] = 256,
    watch: Annotated[
        float, typer.Option("--watch", help="Seconds between looks for a new version of a folder; 0 for SIGHUP only.")
    ] = 2.0,
    media_host: Annotated[
        list[str] | None,
        typer.Option(
            "--media-host", show_default=False,
            help="Where files may be fetched from, if a request gives an address: HOST, HOST:PORT, http://HOST:PORT (may be repeated).",
        ),
    ] = None,
) -> None:
    """Serve compressed models to clients of the Open Inference Protocol and of OpenAI, and to browsers.

    Example: `trimodal serve demo-out --port 8080`
    """
    asked = command.Asked(
        tuple(folders), host, port, grpc_port, workers, threads, api_key_file, tuple(allowed_host or ()), log == "json",
        drain_seconds, queue, watch, tuple(media_host or ()),
    )  # fmt: skip
    code = command.run_server(asked, engine)
    if code:
        raise typer.Exit(code)


@add_command
def package(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT", help="A folder that `trimodal compress` or `trimodal export` wrote.", show_default=False)
    ],
    output: OutputOption,
    kind: Annotated[
        Literal["docker", "compose", "kubernetes", "triton", "ray"],
        typer.Option("--for", help="The program that will serve it.", show_default=False),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model and what is named after it; by default the folder's.", show_default=False)
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Of the container, with its tag.", show_default=False)] = None,
    replicas: Annotated[int, typer.Option("--replicas", help="Servers side by side.")] = 2,
    workers: Annotated[int, typer.Option("--workers", help="Processes of each server.")] = 2,
    threads: Annotated[int, typer.Option("--threads", help="Of each process.")] = 1,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write what another program needs to serve a compressed model: an image, manifests, a model repository.

    Example: `trimodal package demo-out -o demo-compose --for compose`
    """
    found = packages.package(
        folder, output, kind, force=force, name=name, image=image, replicas=replicas, workers=workers, threads=threads
    )
    if as_json:
        print_result(found.to_json())
    else:
        print_result("\n".join([f"written: {output} ({len(found.files)} files); run there:", *(f"  {line}" for line in found.commands)]))
