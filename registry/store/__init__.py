"""Object stores: one protocol, a local directory and S3."""

from registry.store.base import ObjectInfo, ObjectStore, PutMode

__all__ = ["ObjectInfo", "ObjectStore", "PutMode"]
