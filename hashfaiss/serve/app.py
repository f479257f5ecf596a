"""The service: its routes, and what each does with a request that passed the guard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hashfaiss.codes import Codes
from hashfaiss.encoding.pipeline import one_thread_each
from hashfaiss.errors import ArgumentError, ImageError
from hashfaiss.images.decoding import read_bytes
from hashfaiss.images.sniffing import media_type
from hashfaiss.library.hits import Hits
from hashfaiss.library.image_index import ImageIndex
from hashfaiss.serve.asked import NAMED, Asked, codes_of, json_of, whole_number
from hashfaiss.serve.batcher import Batcher
from hashfaiss.serve.desk import Desk, Duplicates, Prepared, hit_of, log_trouble
from hashfaiss.serve.guard import COOKIE, Gate, Guard
from hashfaiss.serve.limits import Limits
from hashfaiss.serve.measured import Measured
from hashfaiss.serve.refusals import RETRY_SECONDS, Refused
from hashfaiss.serve.schema import SIDES, openapi

TOGETHER = {"cpu": 8, "cuda": 64}  # images encoded at once, where so many wait
MOST_THREADS = 8  # that search and make small pictures
LOOK_SECONDS = 1.0  # how often a newer generation is looked for
SEARCHED = 32  # codes at once, of those that one request asks with
MOST_JSON = 4 << 20  # bytes: more than all that may be asked for takes
MOST_TOKEN = 1000
MOST_IMAGES = 500  # of one page of /images
MOST_GROUPS, MOST_OF_GROUP = 500, 100
LARGEST_ID = (1 << 63) - 1
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/mark.svg": ("mark.svg", "image/svg+xml"),
}

Result = TypeVar("Result")


class JSON(JSONResponse):
    """JSON in ASCII: a path may hold what is no text."""

    def render(self, content: Any) -> bytes:
        return _json(content)


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


class Service:
    """What the routes share."""

    def __init__(self, desk: Desk, limits: Limits, gate: Gate, secured: bool) -> None:
        self.desk, self.limits, self.gate, self.secured = desk, limits, gate, secured
        self.measured = Measured()
        device = desk.index.encoder.device.type if desk.index.has_encoder else "cpu"
        together = TOGETHER.get(device, 8)
        workers = os.cpu_count() or 1
        networks = workers if device == "cpu" else 1
        self.batcher: Batcher[Prepared, Codes] = Batcher(
            desk.encode, together, limits.waiting, self.measured.batches.observe, networks
        )
        if networks > 1:
            one_thread_each(self.batcher.pool, networks)
        self.duplicates = Duplicates(MOST_GROUPS, MOST_OF_GROUP)
        self._threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="answer")
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        one_thread_each(self._decoders, workers)

    async def thread(self, work: Callable[[], Result]) -> Result:
        """Work done beside the loop; what is begun for a request that ended keeps its thread until it is done."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """End its threads."""
        self.duplicates.close()
        await self.batcher.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._decoders.shutdown(wait=True, cancel_futures=True)

    # ---- what is asked ------------------------------------------------------------------------------------------

    async def search(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        index = self.desk.index
        if kind == "application/json":
            if request.query_params:
                raise Refused(422, "with JSON, options go into the JSON: leave the query string out")
            body = json_of(await self._body(request, min(MOST_JSON, self.limits.upload_bytes), "ask for less"))
            options = {name: value for name, value in body.items() if name not in NAMED}
            asked = Asked.of(options, index.bits, self.limits)
            codes = await self.thread(partial(self._named, index, body))
        elif kind.startswith("image/") or kind == "application/octet-stream":
            if not index.has_encoder:
                raise Refused(422, "the index holds imported codes, and no model for images: ask with an id or a code")
            asked = Asked.of_query(request.query_params, index.bits, self.limits)
            data = await self._body(request, self.limits.upload_bytes, "send a smaller image")
            codes = (await _while_there(request, self._code(index, data)))[None]
        else:
            raise Refused(415, f"content type {kind[:60]!r} is not taken: send image/jpeg or so, or application/json")
        over = threading.Event()
        try:
            answers = await _while_there(request, self.thread(partial(self._answers, index, codes, asked, over)))
        finally:
            over.set()
        about = _json({"generation": index.store.manifest["generation"], "bits": index.bits})
        return Response(b'%b,"answers":[%b]}' % (about[:-1], b",".join(answers)), media_type="application/json")

    async def _body(self, request: Request, most: int, advice: str) -> bytes:
        too_large = Refused(413, f"the body is larger than {most:,} bytes: {advice}", {"Connection": "close"})
        with contextlib.suppress(ValueError):
            if int(request.headers.get("content-length", "0")) > most:
                raise too_large
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise too_large
        if not body:
            raise Refused(400, "the body is empty: send an image's bytes, or JSON")
        return bytes(body)

    def _named(self, index: ImageIndex, body: dict[str, Any]) -> Codes:
        """Codes asked with: given, or of an image of the index."""
        if "code" in body or "codes" in body:
            return codes_of(body, index.bits, self.limits)
        wanted = body.get("id", body.get("path"))
        if "path" in body:
            if not isinstance(wanted, str):
                raise Refused(422, f"path is {str(wanted)[:40]!r}: give a text")
            found = index.find(wanted)
        else:
            if isinstance(wanted, bool) or not isinstance(wanted, int):
                raise Refused(422, f"id is {str(wanted)[:40]!r}: give a whole number")
            found = wanted
        try:
            if found is None or not 0 <= found <= LARGEST_ID:
                raise ArgumentError
            return index.codes.reconstruct([found])
        except ArgumentError:
            raise Refused(404, f"the index has no image {str(wanted)[:200]!r}: ask with what hits are called") from None

    async def _code(self, index: ImageIndex, data: bytes) -> Codes:
        try:
            made = await asyncio.get_running_loop().run_in_executor(self._decoders, self.desk.prepare, index, data)
        except ImageError as error:
            raise Refused(422, f"the image cannot be read: {error.reason}") from None
        if not isinstance(made, Prepared):
            return made
        self.measured.waiting.set(self.batcher.waiting)
        return await self.batcher.ask(made)

    def _answers(self, index: ImageIndex, codes: Codes, asked: Asked, over: threading.Event) -> list[bytes]:
        """An answer for each code, as JSON; no more than are made already, once the request is over."""
        answers: list[bytes] = []
        together = SEARCHED if asked.radius is None else 1  # all images may be within it
        for start in range(0, len(codes), together):
            if over.is_set():
                break
            some = codes[start : start + together]
            try:
                found = index.search(some, asked.k, asked.radius, **asked.how)
            except ArgumentError as error:
                raise Refused(422, str(error)) from None
            answers += (_json(self._answer(index, code, hits)) for code, hits in zip(some, found, strict=True))
        return answers

    def _answer(self, index: ImageIndex, code: Codes, hits: Hits) -> dict[str, Any]:
        shown = hits[: self.limits.hits]
        stored = index.codes.reconstruct([hit.id for hit in shown])
        return {
            "exact": hits.exact,
            "code": code.tobytes().hex(),
            "hits": [hit_of(hit) | {"code": own.tobytes().hex()} for hit, own in zip(shown, stored, strict=True)],
            "more": len(hits) - len(shown),
        }

    # ---- what is shown ------------------------------------------------------------------------------------------

    async def images(self, request: Request) -> Response:
        _only(request, "first", "most")
        first = whole_number(request.query_params.get("first", "0"), "first", 0, LARGEST_ID)
        most = whole_number(request.query_params.get("most", "100"), "most", 1, MOST_IMAGES)
        hits, total = await self.thread(partial(self.desk.images, first, most))
        return JSON({"images": [hit_of(hit) for hit in hits], "total": total})

    async def image(self, request: Request) -> Response:
        _only(request)
        number = whole_number(request.path_params["id"], "id", 0, LARGEST_ID)
        data, kind = await self.thread(partial(self._file, number))
        # what strangers' files hold is shown as a picture, and runs nothing
        return Response(data, media_type=kind, headers={"Content-Security-Policy": "default-src 'none'; sandbox"})

    def _file(self, number: int) -> tuple[bytes, str]:
        try:
            path = self.desk.index.hit(number, 0).path
            if path is None:
                raise ImageError(None, "it was indexed from memory")
            data = read_bytes(path)
        except KeyError:
            raise Refused(404, f"the index has no image of id {number}") from None
        except ImageError as error:
            raise Refused(404, f"image {number} cannot be shown: {error.reason}") from None
        kind = media_type(data)
        if kind is None:
            raise Refused(404, f"image {number} cannot be shown: its file is no image any more")
        return data, kind

    async def thumbnail(self, request: Request) -> Response:
        _only(request, "side")
        number = whole_number(request.path_params["id"], "id", 0, LARGEST_ID)
        side = whole_number(request.query_params.get("side", str(SIDES[0])), "side", 1, SIDES[-1])
        if side not in SIDES:
            raise Refused(422, f"side is {side}: give {', '.join(map(str, SIDES))}")
        made = await _while_there(request, self.thread(partial(self.desk.thumbnail, number, side)))
        if made is None or made.trouble:
            reason = f"the index has no image of id {number}" if made is None else f"no picture: {made.trouble}"
            raise Refused(404, reason)
        return Response(made.jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    async def near(self, request: Request) -> Response:
        _only(request, "radius")
        index = self.desk.index
        radius = whole_number(request.query_params.get("radius", "0"), "radius", 0, index.bits)
        found = await self.duplicates.find(index, radius, LOOK_SECONDS)
        if found is not None:
            return JSON(found)
        at, of = self.duplicates.progress
        return JSON({"done": at, "of": of}, 202, {"Retry-After": str(RETRY_SECONDS)})

    # ---- the service itself -------------------------------------------------------------------------------------

    async def info(self, request: Request) -> Response:
        _only(request)
        facts = await self.thread(self.desk.info)
        limits = {name: getattr(self.limits, name) for name in ("upload_bytes", "codes", "k", "hits")}
        return JSON(facts | {"limits": limits, "folder": self.desk.folder.name})

    async def health(self, request: Request) -> Response:
        return JSON({"status": "ok", "generation": self.desk.generation})

    async def metrics(self, request: Request) -> Response:
        self.measured.images.set(len(self.desk.index))
        self.measured.generation.set(self.desk.generation)
        self.measured.waiting.set(self.batcher.waiting)
        return Response(self.measured.text(), media_type=self.measured.content_type)

    async def described(self, request: Request) -> Response:
        return JSON(openapi(self.limits, self.secured))

    async def login(self, request: Request) -> Response:
        token = (await self._body(request, MOST_TOKEN, "a token is shorter")).decode("utf-8", "replace").strip()
        if not self.secured or not self.gate.matches(token):
            raise Refused(401, "that is not this service's token")
        answer = Response(status_code=204)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, self.gate.cookie(), httponly=True, samesite="strict", secure=secure)
        return answer

    async def watch(self) -> None:
        """Take up newer generations, for as long as the service runs."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await to_thread.run_sync(self.desk.renew)
            except Exception as error:  # others write to that folder: it may hold anything
                self.measured.failures.inc()
                log_trouble(error)


def create_app(desk: Desk, limits: Limits, token: str | None) -> Starlette:
    """The ASGI application."""
    gate = Gate(token)
    service = Service(desk, limits, gate, token is not None)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.watch())
        yield
        watching.cancel()
        await service.close()

    routes = [
        Route("/search", service.search, methods=["POST"]),
        Route("/images", service.images),
        Route("/image/{id}", service.image),
        Route("/thumbnail/{id}", service.thumbnail),
        Route("/duplicates", service.near),
        Route("/info", service.info),
        Route("/healthz", service.health),
        Route("/metrics", service.metrics),
        Route("/openapi.json", service.described),
        Route("/login", service.login, methods=["POST"]),
        *(Route(path, partial(_page, *of)) for path, of in PAGE.items()),
    ]
    refusals = {Refused: _refused, HTTPException: _not_found, ClientDisconnect: _gone, Exception: _failed}
    guard = Middleware(Guard, gate=gate, limits=limits, measured=service.measured)
    app = Starlette(routes=routes, middleware=[guard], exception_handlers=refusals, lifespan=lifespan)
    app.state.desk = desk
    return app


async def _page(name: str, kind: str, request: Request) -> Response:
    data = files("hashfaiss.serve").joinpath("page", name).read_bytes()
    return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:100]}"
    reason = {404: "there is nothing here; /openapi.json lists what there is", 405: "not with this method"}
    said = reason.get(error.status_code, str(error.detail))
    return JSON({"error": f"{what}: {said}"}, error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # as proxies call it; nobody is there to read it


async def _failed(request: Request, error: Exception) -> Response:
    return JSON({"error": "the service failed at this, and wrote the reason to its log"}, 500)


async def _while_there(request: Request, work: Awaitable[Result]) -> Result:
    """The result, unless the client goes first: then the work is given up."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([doing, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _only(request: Request, *names: str) -> None:
    if unknown := request.query_params.keys() - set(names):
        known = f"give {', '.join(names)}" if names else "there is none here"
        raise Refused(422, f"{min(unknown)[:40]!r} is no parameter: {known}")
