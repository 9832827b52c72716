"""OpenSSF model signatures: `model.sig`, made and verified by the `model-signing` library.

A signature covers the path and SHA-256 of every other file of the version (OpenSSF Model Signing
specification 1.0: a Sigstore bundle around an in-toto statement). Keys are elliptic-curve keys.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.admission import SIGNATURE
from adapters.errors import InvalidAdapter
from registry.errors import BadRequest


def sign(directory: Path, private_key: Path) -> Path:
    """Sign every file of `directory` and write `model.sig` there.

    private_key: an unencrypted PEM file. Raises `BadRequest` if it is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from model_signing import hashing, signing  # brings in sigstore, which takes a moment

    signature = directory / SIGNATURE
    signature.unlink(missing_ok=True)
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(hashing.Config()).sign(directory, signature)
    except (ValueError, TypeError, OSError, UnsupportedAlgorithm) as error:
        raise BadRequest(
            f"{private_key} cannot sign: {error}. Make one: "
            "openssl ecparam -name prime256v1 -genkey -noout -out signing.pem"
        ) from error
    return signature


def fingerprint(public_key: str) -> str:
    """SHA-256 of the key (DER); raises `BadRequest` if the text is no PEM public key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(public_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadRequest("A signer is a public key in PEM form. Give the whole file.") from error
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def verify_signature(files: Mapping[str, Path], signers: Sequence[str]) -> str:
    """The fingerprint of the first of `signers` whose signature covers exactly these files.

    files: by their names in the version, `model.sig` among them. Raises `InvalidAdapter`.
    """
    covered = {name: path for name, path in files.items() if name != SIGNATURE}
    if SIGNATURE not in files:
        raise InvalidAdapter("The signature is missing.")
    if _listed(files[SIGNATURE]) != set(covered):
        raise InvalidAdapter("The signature does not list exactly the files that are there.")
    with tempfile.TemporaryDirectory(
        dir=next(iter(files.values())).parent, prefix="signed-"
    ) as text:
        folder = Path(text, "model")
        folder.mkdir()
        for name, path in covered.items():
            (folder / name).hardlink_to(path)
        for signer in signers:
            if _is_signed_by(folder, files[SIGNATURE], signer, Path(text, "key.pem")):
                return fingerprint(signer)
    raise InvalidAdapter("No key that is trusted here has signed these files.")


def _is_signed_by(folder: Path, signature: Path, signer: str, key: Path) -> bool:
    from model_signing import verifying

    key.write_text(signer)
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, signature)
    except Exception:
        # The library promises no class of error for hostile bundles; anything but success is no.
        return False
    return True


def _listed(signature: Path) -> set[str]:
    """The paths that the signed statement lists: it may name files to ignore, which we refuse."""
    try:
        bundle: Any = json.loads(signature.read_bytes()[: 1 << 20])
        statement: Any = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        return {str(resource["name"]) for resource in statement["predicate"]["resources"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidAdapter("It is no OpenSSF model signature.") from error
