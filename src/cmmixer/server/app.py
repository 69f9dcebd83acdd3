"""The FastAPI application: endpoints, middleware, health checks and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

from cmmixer.server import problems, routes_index, routes_media, routes_search, schemas
from cmmixer.server.auth import COOKIE, BodyLimit, Guard
from cmmixer.server.metrics import MetricsMiddleware
from cmmixer.server.problems import PROBLEM_TYPES, ProblemError, responses
from cmmixer.server.service import PREFIX, Service
from cmmixer.version import __version__

PAGE = Path(__file__).parent / "page"
_MAX_BODY_BYTES = 64 << 10
_DESCRIPTION = """Finds the audio that matches a video, and the video that matches an audio recording, in an index of moments.

Search with an uploaded file (`POST /queries`, then `GET /search?query=ID`), with a file of the library (`GET /search?item=ID`) or with one
of its moments (`&start_seconds=4`). Files have ids, never paths. Errors are problem JSON (RFC 9457)."""


def create_app(service: Service) -> FastAPI:
    """Returns the application of a service. The service is closed when the application shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with service:
            yield

    app = FastAPI(
        title="CMMixer",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=f"{PREFIX}/openapi.json",
        # FastAPI's pages for these load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.service = service
    problems.install(app)
    for router in (
        routes_search.search_router(service),
        routes_index.library_router(service),
        routes_media.media_router(service),
        routes_media.export_router(service),
        routes_index.job_router(service),
    ):
        app.include_router(router, prefix=PREFIX)
    _add_sessions(app, service)
    _add_health(app, service)
    _add_page(app)
    max_bytes_of = {f"{PREFIX}/queries": service.settings.max_upload_mb << 20}
    app.add_middleware(BodyLimit, max_bytes=_MAX_BODY_BYTES, max_bytes_of=max_bytes_of)
    app.add_middleware(Guard, host=service.settings.host, token=service.token)
    app.add_middleware(MetricsMiddleware, metrics=service.metrics)
    return app


def _add_sessions(app: FastAPI, service: Service) -> None:
    guard = Guard(app, host=service.settings.host, token=service.token)

    @app.get(f"{PREFIX}/session", tags=["access"], summary="Whether a token is required, and the limits on uploads")
    def session_info(request: Request) -> schemas.SessionInfo:
        return schemas.SessionInfo(
            token_required=service.token is not None,
            authorized=guard.is_authorized(request.headers),
            max_upload_mb=service.settings.max_upload_mb,
            query_seconds=service.settings.query_seconds,
        )

    @app.post(
        f"{PREFIX}/session",
        status_code=204,
        tags=["access"],
        summary="Keep the token in a cookie, for media and images on a page",
        responses=responses("unauthorized"),
    )
    def start_session(body: schemas.SessionRequest) -> Response:
        if service.token is not None and not guard.is_token(body.token):
            raise ProblemError("unauthorized", "this is not the token that the service was started with")
        response = Response(status_code=204)
        if service.token is not None:
            response.set_cookie(COOKIE, body.token, httponly=True, samesite="strict", path="/")
        return response


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operations"], summary="Whether the service runs, and whether it is ready")
    def health() -> schemas.Health:
        return service.health()

    @app.get(
        "/ready",
        tags=["operations"],
        summary="200 when searches can be answered, else 503",
        responses=responses("index-unavailable"),
    )
    def ready() -> schemas.Health:
        health = service.health()
        if not health.ready:
            raise ProblemError("index-unavailable", health.detail, {"Retry-After": "5"})
        return health

    @app.get("/metrics", tags=["operations"], summary="Metrics for Prometheus", response_class=PlainTextResponse)
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/problems/{problem_type}",
        tags=["operations"],
        summary="What a problem type means",
        response_class=PlainTextResponse,
        responses=responses("not-found"),
    )
    def explain_problem(problem_type: str) -> PlainTextResponse:
        if problem_type not in PROBLEM_TYPES:
            known = ", ".join(PROBLEM_TYPES)
            raise ProblemError("not-found", f"got {problem_type[:100]!r}, expected one of {known}")
        problem = PROBLEM_TYPES[problem_type]
        return PlainTextResponse(f"{problem.title} ({problem.status})\n\n{problem.advice}\n")


def _add_page(app: FastAPI) -> None:
    revalidate = {"cache-control": "no-cache"}

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=revalidate)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> FileResponse:
        return FileResponse(PAGE / "icon.svg", media_type="image/svg+xml", headers=revalidate)

    app.mount("/page", _PageFiles(directory=PAGE), name="page")


class _PageFiles(StaticFiles):
    """The files of the page. A browser asks each time whether they have changed."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        response = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        response.headers["cache-control"] = "no-cache"
        return response
