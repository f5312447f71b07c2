"""Pages for people: the playground at `/`, the API at `/docs`. They load nothing from elsewhere,
hold nothing secret, and ask this server with the reader's token."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.resources import files as resources
from pathlib import PurePosixPath
from typing import Any

from fastapi import APIRouter, Response

FILES = {
    "/": "playground.html",
    "/docs": "reference.html",
    **{f"/web/{name}": name for name in ("common.js", "page.css", "playground.js", "reference.js")},
}
"""Files by their path; each is open to everybody, as the pages ask for the token."""

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    # Scripts and styles are files of this server: what a reader pastes can be neither.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A newer server brings newer pages.
    "Cache-Control": "no-cache",
}


def routes() -> APIRouter:
    """A route for each file."""
    router = APIRouter(include_in_schema=False)
    folder = resources("smorm.serving").joinpath("web")
    for path, name in FILES.items():
        content = folder.joinpath(name).read_bytes()
        media_type = f"{_TYPES[PurePosixPath(name).suffix]}; charset=utf-8"
        router.add_api_route(path, _route_of(content, media_type))
    return router


def _route_of(content: bytes, media_type: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return answer
