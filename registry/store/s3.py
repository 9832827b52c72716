"""An object store on S3, or any server that speaks its protocol and honours `If-None-Match: *`.

Source: Amazon S3 API, "Conditional writes": 412 means that the key is taken, 409 that another
conditional write was under way. Credentials come from boto3's usual chain.
"""

import base64
import contextlib
import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
)

from registry.errors import (
    AlreadyExists,
    DigestMismatch,
    ObjectNotFound,
    OutcomeUnknown,
    StoreBusy,
    StoreUnavailable,
)
from registry.store.base import ObjectInfo, PutMode, SignedPut
from registry.store.keys import check_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

T = TypeVar("T")
CONFLICT_RETRIES = 5
READ_TRIES = 4
READ_SECONDS = 1.0
"""A read that failed for now is repeated, up to `READ_TRIES` times, if it failed within this."""
SIGNED_SECONDS = 3600
PART = 8 << 20
"""Bytes of a part of a multipart upload: S3 takes 5 MiB to 5 GiB, and 10,000 parts."""
_MISSING = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict", "OperationAborted"}
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_WRONG_BYTES = {"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}


class S3Store:
    """Objects in `bucket` below `prefix`."""

    def __init__(self, bucket: str, prefix: str = "", *, endpoint: str | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client: S3Client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if endpoint else "auto"},
                # The SDK's own repeats would hide a write that landed; we read back instead.
                retries={"total_max_attempts": 1, "mode": "standard"},
                # Newer defaults add trailers that several S3-compatible servers refuse.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=32,
            ),
        )

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    is_near = False

    def get(self, key: str) -> bytes:
        """The whole object; raises `ObjectNotFound`."""

        def read() -> bytes:
            reply = self._client.get_object(Bucket=self.bucket, Key=self._full(key))
            with contextlib.closing(reply["Body"]) as body:
                return body.read()

        return _repeated(key, read)

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        """The object from byte `start` on, in pieces; a short answer is an error."""
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": self._full(key)}
        if start:
            where["Range"] = f"bytes={start}-"
        reply = _repeated(key, lambda: self._client.get_object(**where))
        with _explained(key), contextlib.closing(reply["Body"]) as body:
            yield from body.iter_chunks(chunk)

    def head(self, key: str) -> ObjectInfo:
        """Size without content."""
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": self._full(key)}
        reply = _repeated(key, lambda: self._client.head_object(**where))
        return ObjectInfo(key, reply["ContentLength"], reply["LastModified"].timestamp())

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        """Store `data`; see `ObjectStore.put`."""
        digest = hashlib.sha256(data).digest()
        only_if: dict[str, Any] = {"IfNoneMatch": "*"} if mode == "create" else {}
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": self._full(key)}
        checksum = base64.b64encode(digest).decode()
        self._settled(
            key,
            lambda: self._client.put_object(**where, Body=data, ChecksumSHA256=checksum, **only_if),
        )

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        """Store a file's content, overwriting; the server verifies the digest."""
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": self._full(key)}
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()

        def send() -> None:
            with path.open("rb") as body:
                self._client.put_object(**where, Body=body, ChecksumSHA256=checksum)

        self._settled(key, send)

    def _settled(self, key: str, write: Callable[[], object]) -> None:
        """Make a write that S3 may ask for again while another one of the key is under way."""
        for attempt in range(CONFLICT_RETRIES):
            try:
                with _explained(key, writing=True):
                    write()
            except _Conflict:
                time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311 - only a delay
            else:
                return
        raise OutcomeUnknown(f"{key}: other writers kept this one from finishing. Read it.")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`."""
        where: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix + prefix}
        while True:
            page = _repeated(prefix, lambda: self._client.list_objects_v2(**where))
            for found in page.get("Contents", []):
                key = found["Key"].removeprefix(self.prefix)
                yield ObjectInfo(key, found["Size"], found["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        with _explained(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def signed_put(self, key: str, *, sha256: str, size: int) -> SignedPut:
        """A presigned PUT that the server accepts for exactly this content."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        parameters = {
            "Bucket": self.bucket,
            "Key": self._full(key),
            "ChecksumSHA256": checksum,
            "ContentLength": size,
        }
        with _explained(key):
            url = self._client.generate_presigned_url(
                "put_object", Params=parameters, ExpiresIn=SIGNED_SECONDS
            )
        return SignedPut(url, {"x-amz-checksum-sha256": checksum, "content-length": str(size)})

    def signed_get(self, key: str) -> str:
        """A presigned GET."""
        parameters = {"Bucket": self.bucket, "Key": self._full(key)}
        with _explained(key):
            return self._client.generate_presigned_url(
                "get_object", Params=parameters, ExpiresIn=SIGNED_SECONDS
            )

    def put_stream(self, key: str, pieces: Iterable[bytes]) -> None:
        """Store what `pieces` yields, as one multipart upload that is completed at its end."""
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": self._full(key)}
        with _explained(key):
            upload = self._client.create_multipart_upload(**where)["UploadId"]
        try:
            parts: list[CompletedPartTypeDef] = []
            for number, part in enumerate(_in_parts(pieces), start=1):
                with _explained(key):
                    stored = self._client.upload_part(
                        **where, UploadId=upload, PartNumber=number, Body=part
                    )
                parts.append({"PartNumber": number, "ETag": stored["ETag"]})
            with _explained(key, writing=True):
                self._client.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            with contextlib.suppress(StoreUnavailable, ClientError, BotoCoreError):
                self._client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def _full(self, key: str) -> str:
        return self.prefix + check_key(key)


def _in_parts(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of `PART`, the last one shorter; at least one, be it empty."""
    waiting = bytearray()
    whole = True
    for piece in pieces:
        waiting += piece
        while len(waiting) >= PART:
            yield bytes(waiting[:PART])
            del waiting[:PART]
            whole = False
    if waiting or whole:
        yield bytes(waiting)


def _repeated(key: str, read: Callable[[], T]) -> T:
    """A read, made again after a moment if S3 throttled it, failed, or broke off.

    Only what failed quickly is repeated, so that a store that hangs is not waited for twice.
    """
    began = time.monotonic()
    for attempt in range(READ_TRIES - 1):
        try:
            with _explained(key):
                return read()
        except StoreUnavailable as error:
            passing = isinstance(error, StoreBusy) or isinstance(error.__cause__, HTTPClientError)
            if not passing or time.monotonic() - began > READ_SECONDS:
                raise
        time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311 - only a delay
    with _explained(key):
        return read()


class _Conflict(OutcomeUnknown):
    """S3 asks for the same write once more."""


@contextlib.contextmanager
def _explained(key: str, *, writing: bool = False) -> Iterator[None]:
    """Turn boto3's errors into the store's. A write that got no clear answer is unknown."""
    try:
        yield
    except ClientError as error:
        raise _translated(error, key, writing=writing) from error
    except (ConnectionError, HTTPClientError) as error:
        if writing:
            raise OutcomeUnknown(f"{key}: no answer came back ({error}). Read it.") from error
        raise StoreUnavailable(f"S3 does not answer: {error}. Check the endpoint.") from error
    except BotoCoreError as error:
        raise StoreUnavailable(f"S3: {error}. Check the credentials and the endpoint.") from error


def _translated(error: ClientError, key: str, *, writing: bool) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return StoreUnavailable("The bucket does not exist. Create it, or correct LORARY_STORE.")
    if code in _MISSING:
        return ObjectNotFound(f"There is no object {key}. Check the store's address.")
    if code in _TAKEN:
        return AlreadyExists(f"{key} exists. Read it.")
    if code in _CONFLICT:
        return _Conflict(f"{key}: another write was under way. Read it.")
    if code in _WRONG_BYTES:
        return DigestMismatch(f"{key}: the bytes sent are not the declared ones. Send them again.")
    if writing and status >= 500:
        return OutcomeUnknown(f"{key}: S3 answered {status} {code}. Read it.")
    if code in _THROTTLED or status == 429:
        return StoreBusy(
            f"S3 throttles requests ({status} {code}). Send fewer, or try again later."
        )
    if status >= 500:
        return StoreBusy(f"S3 failed to answer for {key} ({status} {code}). Try again later.")
    return StoreUnavailable(f"S3 refused {key}: {status} {code}. Check the key's permissions.")
