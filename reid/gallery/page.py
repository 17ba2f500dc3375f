"""The server behind `reid.browse`: who may ask, and what is answered.

The page is for one person on this machine.  It is bound to 127.0.0.1, and other programs of this machine and
other pages in the same browser are strangers to it:

- The printed address carries a token.  Whoever opens it gets a cookie and is sent on to the bare address, so
  that the token is not left in the address bar.  Nothing is answered without that cookie.
- The Host header must be ours: a name that a stranger points at 127.0.0.1 is not.
- What changes something must come from the page itself, by its Origin and Sec-Fetch-Site.
- No path is ever taken from a request: crops are numbers, and the files of the page are read at the start.
"""

from __future__ import annotations

import html
import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import jinja2
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reid.data.crops import DatasetError, PictureError
from reid.data.pictures import decode
from reid.gallery.thumbnails import Thumbnails, encoded, overlaid, shrunk
from reid.gallery.views import Filter, Views

HOST = "127.0.0.1"
#: Bytes of a picture that is dropped in, and of what else is sent.
MOST_UPLOADED, MOST_SENT = 20 * 2**20, 64 * 2**10
#: Entries of a list in one answer.
MOST_LISTED = 500

_HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: In place of a picture that cannot be shown.
_PLACEHOLDER = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 128" role="img"><title>{reason}</title>'
    '<rect width="64" height="128" fill="#8a8f98"/><g fill="#fff" font-family="sans-serif" font-size="11" '
    'text-anchor="middle"><text x="32" y="58">cannot</text><text x="32" y="72">be read</text></g></svg>'
)


class Guard:
    """Lets through to `app` only what the page's own user asks, and gives each answer its headers."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        self.token, self._session = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self._tickets: set[str] = set()
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        self._cookie = f"reid-browse-{port}"  # cookies know no ports, and pages of two runs may be open

    def ticket(self) -> str:
        """A token that counts once, for an address that a list of the machine's processes may show."""
        self._tickets.add(made := secrets.token_urlsafe(24))
        return made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(scope) if scope["type"] == "http" else _refused(404, "there is only HTTP here")
        await (answer or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if headers.getlist("host") != [host] or host not in self._hosts:
            return _refused(403, "This page answers to its own address only.")
        if scope["method"] not in ("GET", "HEAD"):
            origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
            if origin != f"http://{host}" or site != "same-origin":
                return _refused(403, "Another site may change nothing here.")
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and scope["path"] != "/":
            # "same-site" is a page on another port of this machine.
            return _refused(403, "Another site may see nothing here.")
        tokens = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("token")
        if scope["path"] == "/" and tokens is not None:
            if tokens[0] in self._tickets:
                self._tickets.remove(tokens[0])
            elif not _equal(tokens[0], self.token):
                return _refused(403, "This token is not that of the address which reid.browse has printed.")
            redirect = Response(status_code=303, headers={"Location": "/"})
            redirect.set_cookie(self._cookie, self._session, httponly=True, samesite="strict")
            return redirect
        if not _equal(_cookies(headers).get(self._cookie, ""), self._session):
            # After a click on the address in another page, the browser keeps the new cookie to itself once.
            again = ' <a href="/">Open the page</a>' if scope["path"] == "/" else ""
            return _refused(403, "Open the address that reid.browse has printed, with its token.", again)
        return None


def _equal(first: str, second: str) -> bool:
    return secrets.compare_digest(first.encode(), second.encode())


def _cookies(headers: Headers) -> dict[str, str]:
    pairs = (pair.strip().partition("=") for pair in ";".join(headers.getlist("cookie")).split(";"))
    return {name: value for name, _, value in pairs}


def _refused(status: int, words: str, link: str = "") -> Response:
    text = f"<!doctype html><meta charset=utf-8><title>reid.browse</title><p>{html.escape(words)}{link}</p>"
    return HTMLResponse(text, status)


def make_app(views: Views, thumbnails: Thumbnails) -> FastAPI:
    """The page of `views`, for whoever `Guard` lets through."""
    # Nothing of it goes to a collector of telemetry, whatever the environment asks for.
    silence: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, telemetry=silence)
    files = {file.name: file.read_bytes() for file in (_HERE / "static").iterdir()}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    version = secrets.token_hex(8)  # of pictures: a browser keeps them, and crop 7 of another run is another
    start = templates.get_template("index.html").render(title=views.title, version=version)

    @app.exception_handler(DatasetError)
    def explain(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(OSError)
    def explain_disk(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"the disk failed: {error}"}, 500)

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        return start

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return Response(files[name], media_type=_TYPES[Path(name).suffix])

    @app.get("/api/summary")
    def summary() -> JSONResponse:
        return JSONResponse(views.summary())

    @app.get("/api/queries")
    def queries(
        wanted: Annotated[Filter, Query()],
        offset: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 60,
    ) -> JSONResponse:
        return JSONResponse(views.queries(wanted, offset, count))

    @app.get("/api/list/{crop}")
    def ranked(
        crop: int,
        offset: Annotated[int, Query(ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 40,
    ) -> JSONResponse:
        return JSONResponse(views.lists(_there(crop), offset, count))

    @app.get("/api/map/{method}")
    def points(method: Literal["pca", "tsne"]) -> JSONResponse:
        return JSONResponse(views.points(method))

    @app.get("/api/suspects")
    def suspects(where: str) -> JSONResponse:
        return JSONResponse(views.suspects(where))

    @app.post("/api/verdicts")
    async def verdict(request: Request) -> JSONResponse:
        try:
            sent = json.loads(await _body(request, MOST_SENT))
            where, pair, answer = str(sent["where"]), int(sent["pair"]), str(sent["answer"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise HTTPException(400, "expected JSON with where, pair and answer") from error
        return JSONResponse(await run_in_threadpool(views.give_verdict, where, pair, answer))

    @app.post("/api/search")
    async def search(request: Request) -> JSONResponse:
        data = await _body(request, MOST_UPLOADED)
        return JSONResponse(await run_in_threadpool(lambda: views.search(decode(data).image)))

    @app.get("/crop/{crop}")
    def picture(crop: int, size: Literal["small", "large"] = "small") -> Response:
        number = _there(crop)
        return _picture(lambda: thumbnails.jpeg(number, size))

    @app.get("/activation/{crop}")
    def activation(crop: int, model: Annotated[int, Query(ge=0)] = 0) -> Response:
        number = _there(crop)

        def draw() -> bytes:
            image = thumbnails.picture(number)
            return encoded(overlaid(shrunk(image, 512), views.activation(image, model)))

        return _picture(draw)

    def _there(crop: int) -> int:
        if not 0 <= crop < len(thumbnails):
            raise HTTPException(404, f"there is no crop {crop}; the last one is {len(thumbnails) - 1}")
        return crop

    return app


def _picture(draw: Callable[[], bytes]) -> Response:
    """A JPEG that the browser may keep for itself, or a placeholder that says why there is none."""
    try:
        return Response(draw(), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})
    except PictureError as error:
        return Response(_PLACEHOLDER.format(reason=html.escape(str(error))), media_type="image/svg+xml")


async def _body(request: Request, most: int) -> bytes:
    """What was sent, refused as soon as it is longer than `most` bytes."""
    parts, length = [], 0
    try:
        async for part in request.stream():
            length += len(part)
            if length > most:
                raise HTTPException(
                    413, f"more than {most / 2**20:.2g} MiB: too large for a picture of a person"
                )
            parts.append(part)
    except ClientDisconnect:
        raise HTTPException(400, "broken off") from None  # nobody reads it, and no traceback is printed
    return b"".join(parts)


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; 0 takes any free port.

    Raises:
        OSError: the port is in use, or may not be used.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return listener


def server(app: ASGIApp) -> uvicorn.Server:
    """What answers on a socket until it is interrupted; it logs no address, and so no token."""
    return uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
            lifespan="off", ws="none", timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
