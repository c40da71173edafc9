"""The page and the end point, as an application of FastAPI."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread

from metalens.errors import MetaLensError, extra
from metalens.reports.run_report import template
from metalens.serving import MAX_BYTES, MAX_ROWS
from metalens.serving.answers import answer, check_model, frame_of_rows, frame_of_text

with extra("serve"):
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RefusedError(Exception):
    """A request that is not answered: its status, and a sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def application(
    model: Any,
    *,
    max_bytes: int = MAX_BYTES,
    max_rows: int = MAX_ROWS,
    hosts: tuple[str, ...] = LOOPBACK,
) -> FastAPI:
    """Return the application that serves a model: `GET /`, a page, and `POST /predict`, JSON.

    `POST /predict` takes a table as `text/csv`, or `application/json` with `rows`, a list of objects; both
    with the coverage of intervals as `?coverage=0.9`. Rows with a known target are the support, the others
    are predicted; see `answer` for what is returned. An error is `{"error": sentence}`, with the status 413
    for too many bytes or rows, 415 for another type, and 422 for rows that cannot be used.

    Args:
        model: a fitted estimator of a long table.
        max_bytes: of a request.
        max_rows: of a table.
        hosts: names by which the server may be called, so that pages from elsewhere cannot.

    Raises:
        MetaLensError: the model cannot be served, or FastAPI is missing.
    """
    check_model(model)
    app = FastAPI(title="MetaLens", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    one_at_a_time = CapacityLimiter(1)
    page = template(Path(__file__).parent / "page.html.j2")

    @app.get("/")
    async def show() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        text = page.render(reader=model.reader_, model=model, nonce=nonce, max_rows=max_rows)
        policy = _POLICY.format(nonce=nonce)
        return HTMLResponse(text, headers=_HEADERS | {"Content-Security-Policy": policy})

    @app.post("/predict")
    async def predict(request: Request) -> JSONResponse:
        try:
            coverage = _coverage(request.query_params.get("coverage", "0.9"))
            read = _reading(request, model)
            body = await _body(request, max_bytes)
            found = await to_thread.run_sync(
                partial(_answered, model, read, body, coverage, max_rows), limiter=one_at_a_time
            )
            return JSONResponse(found, headers=_HEADERS)
        except RefusedError as refused:
            return JSONResponse({"error": str(refused)}, refused.status, headers=_HEADERS)
        except MetaLensError as error:
            return JSONResponse({"error": str(error)}, 422, headers=_HEADERS)

    return app


def _coverage(text: str) -> float:
    try:
        coverage = float(text)
    except ValueError:
        coverage = -1.0
    if not 0 < coverage < 1:
        raise RefusedError(422, f"coverage must be a number between 0 and 1, got {text[:20]!r}.")
    return coverage


def _reading(request: Request, model: Any) -> Callable[[bytes], Any]:
    """Return what reads the body, by its type; forms of other pages cannot send these types unasked."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/csv":
        return partial(frame_of_text, reader=model.reader_)
    if kind == "application/json":
        return lambda body: frame_of_rows(_rows_of_json(body), model.reader_)
    raise RefusedError(415, "Send a table as text/csv, or rows as application/json.")


def _rows_of_json(body: bytes) -> Any:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(422, "The body is not JSON.") from error
    return given.get("rows") if isinstance(given, dict) else None


async def _body(request: Request, max_bytes: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise RefusedError(413, f"A table may have {max_bytes:,} bytes; send fewer rows.")
        parts.append(part)
    return b"".join(parts)


def _answered(
    model: Any, read: Callable[[bytes], Any], body: bytes, coverage: float, max_rows: int
) -> dict[str, Any]:
    frame = read(body)
    if len(frame) > max_rows:
        raise RefusedError(413, f"A table may have {max_rows:,} rows, got {len(frame):,}; send fewer.")
    return answer(model, frame, coverage)
