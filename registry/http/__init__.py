"""The registry's HTTP service."""

from registry.http.app import create_app

__all__ = ["create_app"]
