"""The application: routes under ``/v1``, and the page.

Clients refer to pictures by number, never by path. Pictures are decoded in worker processes only.
"""

from __future__ import annotations

from fastapi import FastAPI

from d2r.engine import Engine
from d2r.serve.access import Access
from d2r.serve.guard import Guard
from d2r.serve.openapi import openapi_document
from d2r.serve.problems import handle_problems
from d2r.serve.routes.changes import change_routes
from d2r.serve.routes.page import page_routes
from d2r.serve.routes.pictures import picture_routes
from d2r.serve.routes.search import search_routes
from d2r.serve.routes.status import status_routes
from d2r.serve.service import Service
from d2r.serve.settings import ServiceSettings
from d2r.support.version import package_version


def make_service_app(engine: Engine, settings: ServiceSettings) -> FastAPI:
    """Return the application.

    Args:
        engine: engine of the index; the caller closes it after the application has ended.
        settings: see :class:`~d2r.serve.settings.ServiceSettings`.

    Raises:
        ServeError: the index has no visual words yet, or the folder of uploads cannot be used.
    """
    service = Service(engine, settings)
    access = Access(service)
    # No generated documentation pages: they load scripts from another site. The OpenAPI document itself is served.
    app = FastAPI(
        title="Detect-to-Retrieve",
        version=package_version(),
        description="Find the pictures of a collection that show the same building, monument or object.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=lambda app: service.running(),
    )
    app.add_middleware(Guard, hosts=settings.hosts, places=service.places, observe=service.metrics.observe)
    handle_problems(app)
    for routes in (status_routes, picture_routes, search_routes, change_routes):
        app.include_router(routes(service, access))
    app.include_router(page_routes())
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    return app
