"""The application of `shirg serve` as a Ray Serve deployment; configs/ray/serve.yaml has the command."""

from __future__ import annotations

import os

from fastapi import FastAPI
from ray import serve


def build() -> FastAPI:
    """The application of one replica, with a model of its own."""
    from shirg.lavida.loading import load_model
    from shirg.serve.app import create_app
    from shirg.serve.settings import ServerSettings

    name = os.environ.get("SHIRG_MODEL", "nano")
    return create_app({os.path.basename(name): load_model(name)}, ServerSettings())


@serve.deployment
@serve.ingress(build)
class Shirg:
    """A replica; Ray sends each request to one of them."""


app = Shirg.bind()
