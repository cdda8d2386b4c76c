"""The command that serves an index: ``d2r serve``."""

from __future__ import annotations

import ipaddress
import logging
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer

from d2r.cli.terminal import Ray, RayAddress, say
from d2r.defaults import PORT
from d2r.serve.settings import ServiceLimits
from d2r.support.files import display_path


def serve(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index, made by `d2r index`.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any address but loopback lets other machines connect.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Host name that requests may use for this service. Repeatable.",
            show_default="127.0.0.1, localhost and [::1] on a loopback address, otherwise any",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token for adding and removing pictures (both disabled without one); or set D2R_TOKEN.",
        ),
    ] = None,
    read_token: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the token for everything else; or set D2R_READ_TOKEN."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Disable adding and removing pictures.")] = False,
    uploads: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for added pictures: new, empty, or used for this before.",
            show_default="INDEX.uploads",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that decode and describe pictures.", show_default="one per processor"),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=0, help="Requests that may wait; any more are told to retry later.")
    ] = ServiceLimits.queue,
    max_upload: Annotated[
        int, typer.Option(min=1, metavar="MB", help="Refuse larger uploads.")
    ] = ServiceLimits.upload_bytes >> 20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse pictures of more pixels (width x height).")
    ] = ServiceLimits.pixels,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Limit for receiving a picture, and again for describing it."),
    ] = ServiceLimits.seconds,
    ray: Ray = False,
    ray_address: RayAddress = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --ray: shards of the index, searched separately.", show_default="one per machine"
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="With --ray: processes that can search each shard.")] = 1,
) -> None:
    """Serve a search page for an index, and an HTTP API (its OpenAPI document is at /v1/openapi.json).

    It listens on this machine only, unless --host says otherwise. Stop it with Ctrl-C: requests in progress are
    completed, and added pictures that are not indexed yet are indexed after the next start. With --ray the machines of
    a cluster search one shard of the index each; all of them must see its folder under the same path.
    """
    from d2r.engine import Engine
    from d2r.serve.app import make_service_app
    from d2r.serve.settings import READ_TOKEN_VARIABLE, TOKEN_VARIABLE, ServiceSettings, token_from
    from d2r.support.processes import default_workers
    from d2r.support.webserver import WebServer

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("d2r.serve.access").setLevel(logging.INFO)
    names = allow_host or (["127.0.0.1", "localhost", "[::1]"] if _is_loopback(host) else [])
    settings = ServiceSettings(
        uploads=uploads or index.absolute().with_name(index.absolute().name + ".uploads"),
        token=token_from(token_file, TOKEN_VARIABLE),
        read_token=token_from(read_token, READ_TOKEN_VARIABLE),
        read_only=read_only,
        workers=workers or default_workers(),
        threads=default_workers(),
        hosts=frozenset(name.lower() for name in names),
        limits=ServiceLimits(upload_bytes=max_upload << 20, pixels=max_pixels, seconds=timeout, queue=queue),
    )
    with ExitStack() as stack:
        engine = stack.enter_context(Engine.open(index))
        engine.check_features()
        if ray or ray_address is not None:
            from d2r.cluster.connect import connected

            stack.enter_context(connected(ray_address))
            from d2r.cluster.search import sharded

            engine = stack.enter_context(sharded(engine.index, shards=shards, replicas=replicas))
        server = WebServer(make_service_app(engine, settings), port, host=host, grace_s=20)
        say(f"page: {server.url}  (stop with Ctrl-C)")
        if settings.writable:
            say(f"added pictures are kept in {display_path(settings.uploads)}")
        else:
            why = "--read-only" if read_only else "no --token-file and no D2R_TOKEN"
            say(f"adding and removing pictures is disabled: {why}")
        with suppress(KeyboardInterrupt):
            server.run()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
