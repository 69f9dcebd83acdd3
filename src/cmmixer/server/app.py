"""The service as an ASGI application: its endpoints are in `routes_*`, its page in `page/`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from cmmixer.server import problems, routes_index, routes_media, routes_search, schemas
from cmmixer.server.auth import COOKIE, BodyLimit, Guard
from cmmixer.server.metrics import Measured
from cmmixer.server.problems import KINDS, ProblemError, responses
from cmmixer.server.service import PREFIX, Service
from cmmixer.version import __version__

PAGE = Path(__file__).parent / "page"
_LARGEST_BODY = 64 << 10
_ABOUT = """Finds the sound that goes with a picture, and the picture that goes with a sound, in an index of moments.

Search with an uploaded file (`POST /queries`, then `GET /search?query=ID`), with a file of the library (`GET /search?item=ID`) or with one
of its moments (`&start_seconds=4`). Files have ids, never paths. Errors are problem JSON (RFC 9457)."""


def create_app(service: Service) -> FastAPI:
    """The application of a service, which is closed when the application ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with service:
            yield

    app = FastAPI(
        title="CMMixer",
        version=__version__,
        description=_ABOUT,
        openapi_url=f"{PREFIX}/openapi.json",
        # Their pages fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.service = service
    problems.install(app)
    for router in (
        routes_search.router(service),
        routes_index.library_router(service),
        routes_media.media_router(service),
        routes_media.export_router(service),
        routes_index.job_router(service),
    ):
        app.include_router(router, prefix=PREFIX)
    _add_sessions(app, service)
    _add_health(app, service)
    _add_page(app)
    sizes = {f"{PREFIX}/queries": service.settings.max_upload_mb << 20}
    app.add_middleware(BodyLimit, most_bytes=_LARGEST_BODY, sizes=sizes)
    app.add_middleware(Guard, host=service.settings.host, token=service.token)
    app.add_middleware(Measured, metrics=service.metrics)
    return app


def _add_sessions(app: FastAPI, service: Service) -> None:
    guard = Guard(app, host=service.settings.host, token=service.token)

    @app.get(
        f"{PREFIX}/welcome", tags=["access"], summary="Whether a token is needed, and whether this request brought it"
    )
    def welcome(request: Request) -> schemas.Welcome:
        return schemas.Welcome(
            token_needed=service.token is not None,
            welcome=guard.is_welcome(request.headers),
            max_upload_mb=service.settings.max_upload_mb,
            query_seconds=service.settings.query_seconds,
        )

    @app.post(
        f"{PREFIX}/session",
        status_code=204,
        tags=["access"],
        summary="Keep the token in a cookie, for a browser's films and pictures",
        responses=responses("unauthorised"),
    )
    def session(order: schemas.SessionOrder) -> Response:
        if service.token is not None and not guard.is_token(order.token):
            raise ProblemError("unauthorised", "this is not the token the service was started with")
        answer = Response(status_code=204)
        if service.token is not None:
            answer.set_cookie(COOKIE, order.token, httponly=True, samesite="strict", path="/")
        return answer


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"], summary="Whether it lives, and whether it is ready")
    def health() -> schemas.Health:
        return service.health()

    @app.get(
        "/ready",
        tags=["operation"],
        summary="200 when searches can be answered, else 503",
        responses=responses("index"),
    )
    def ready() -> schemas.Health:
        found = service.health()
        if not found.ready:
            raise ProblemError("index", found.detail, {"Retry-After": "5"})
        return found

    @app.get("/metrics", tags=["operation"], summary="Figures for Prometheus", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/problems/{kind}",
        tags=["operation"],
        summary="What a kind of problem means",
        response_class=PlainTextResponse,
        responses=responses("not-found"),
    )
    def problem(kind: str) -> PlainTextResponse:
        if kind not in KINDS:
            raise ProblemError("not-found", f"no problem is called {kind[:100]!r}")
        return PlainTextResponse(f"{KINDS[kind].title} ({KINDS[kind].status})\n\n{KINDS[kind].advice}\n")


def _add_page(app: FastAPI) -> None:
    fresh = {"cache-control": "no-cache"}

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=fresh)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> FileResponse:
        return FileResponse(PAGE / "icon.svg", media_type="image/svg+xml", headers=fresh)

    app.mount("/page", _Fresh(directory=PAGE), name="page")


class _Fresh(StaticFiles):
    """The page's files; a browser asks each time whether they have changed."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        answer = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        answer.headers["cache-control"] = "no-cache"
        return answer
