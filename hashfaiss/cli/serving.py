"""The command that serves an index over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from hashfaiss.cli.app import DEFAULT_INDEX, DeviceOption, IndexOption, MegapixelsOption, ThreadsOption, app
from hashfaiss.errors import HashfaissError


@app.command()
def serve(
    index: IndexOption = DEFAULT_INDEX,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 takes a free one.")] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="HASHFAISS_TOKEN",
            show_envvar=True,
            help="What those who ask must know, 16 characters or more; needed for another address than this machine's.",
        ),
    ] = None,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, help="Most megabytes of an upload.")] = 32,
    max_requests: Annotated[int, typer.Option("--max-requests", min=1, help="Most requests worked on at once.")] = 64,
    max_seconds: Annotated[float, typer.Option("--max-seconds", min=0.1, help="Most seconds of a request.")] = 30,
    max_megapixels: MegapixelsOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Serve an index over HTTP: a page to search with, and endpoints for programs.

    The page is at the address that is printed; /openapi.json describes the endpoints. What `hashfaiss build` commits
    meanwhile is taken up within seconds. Only this machine can ask, unless --host and --token say otherwise. Ctrl-C
    ends it, when the requests at work are answered. Examples:

    \b
        hashfaiss serve
        curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8765/search?k=5'
        HASHFAISS_TOKEN=... hashfaiss serve --host 0.0.0.0
    """
    try:
        from hashfaiss.serve.server import serve as run
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "prometheus_client", "anyio"):
            raise
        raise HashfaissError("serve needs Starlette and uvicorn: pip install 'hashfaiss[serve]'") from None
    from hashfaiss.cli.console import note
    from hashfaiss.serve.limits import Limits

    limits = Limits(upload_bytes=max_upload << 20, in_flight=max_requests, waiting=max_requests, seconds=max_seconds)
    run(index, host, port, token, device, limits, lambda url: note(f"serving {url} - Ctrl-C ends it"))
