"""The registry's HTTP service."""

from registry.api.app import create_app

__all__ = ["create_app"]
