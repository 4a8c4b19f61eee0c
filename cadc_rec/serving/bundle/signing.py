"""Ed25519 signatures of a bundle's manifest: the writer has the private key, readers the public.

Keys are PEM, as OpenSSL writes them::

    openssl genpkey -algorithm ed25519 -out bundle.key
    openssl pkey -in bundle.key -pubout -out bundle.pub
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGN_VARIABLE = "CADC_REC_SIGN_KEY"
"""Environment: the private key itself, PEM."""
VERIFY_VARIABLE = "CADC_REC_VERIFY_KEY"
"""Environment: the public key itself, PEM."""

_ALGORITHM = "Ed25519"


def signing_key(file: Path | None = None) -> Ed25519PrivateKey | None:
    """The private key in `file`, else in the environment; None where neither names one.

    Raises:
        CadcError: it cannot be read, or is no Ed25519 private key without a password.
    """
    found = _pem(file, SIGN_VARIABLE)
    if found is None:
        return None
    pem, where = found
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CadcError(
            f"{where}: no Ed25519 private key in PEM without a password; make one with "
            "`openssl genpkey -algorithm ed25519`."
        )
    return key


def verification_key(file: Path | None = None) -> Ed25519PublicKey | None:
    """The public key in `file`, else in the environment; None where neither names one.

    Raises:
        CadcError: it cannot be read, or is no Ed25519 public key.
    """
    found = _pem(file, VERIFY_VARIABLE)
    if found is None:
        return None
    pem, where = found
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise CadcError(
            f"{where}: no Ed25519 public key in PEM; take it from the private one with "
            "`openssl pkey -in KEY -pubout`."
        )
    return key


def _pem(file: Path | None, variable: str) -> tuple[bytes, str] | None:
    """The key's text and where it stands."""
    named = file is not None or os.environ.get(variable, "").strip()
    if named and find_spec("cryptography") is None:
        raise CadcError(
            "signatures need the library cryptography; install it: pip install 'cadc-rec[export]'."
        )
    if file is not None:
        try:
            return file.read_bytes(), str(file)
        except OSError as error:
            raise CadcError(f"{file}: cannot be read ({error.strerror}).") from error
    text = os.environ.get(variable, "")
    return (text.encode(), f"${variable}") if text.strip() else None


def signature_of(message: bytes, key: Ed25519PrivateKey) -> str:
    """The contents of a signature file for `message`."""
    signature = base64.b64encode(key.sign(message)).decode()
    return json.dumps({"algorithm": _ALGORITHM, "signature": signature}) + "\n"


def is_signed_by(message: bytes, signature_file: bytes, key: Ed25519PublicKey) -> bool:
    """Whether the signature file's contents are the key owner's signature of `message`."""
    from cryptography.exceptions import InvalidSignature

    try:
        document = json.loads(signature_file)
        if document["algorithm"] != _ALGORITHM:
            return False
        key.verify(base64.b64decode(document["signature"], validate=True), message)
    except (InvalidSignature, ValueError, KeyError, TypeError, binascii.Error):
        return False
    return True
