"""Ed25519 signatures of receipts (RFC 8032), by the library `cryptography` (extra `sign`).

What is signed is the receipt without its signature as JSON of one line, its keys in order.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chip.errors import ChipError
from chip.files import read_small

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "Ed25519"


def signature_of(receipt: Mapping[str, Any], key: Path) -> dict[str, str]:
    """The signature of a receipt by the private key in a PEM file, with the public key that proves it.

    Raises ChipError where the key cannot be used, or `cryptography` is missing.
    """
    private = private_key(key)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        "algorithm": ALGORITHM,
        "public_key": base64.b64encode(public).decode(),
        "value": base64.b64encode(private.sign(_signed(receipt))).decode(),
    }


def private_key(path: Path) -> "Ed25519PrivateKey":
    """The Ed25519 private key in a PEM file without a password."""
    _refuse_without_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_small(path), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise ChipError(
            f"{path} holds no private key that can be used; make one with "
            "`openssl genpkey -algorithm ed25519 -out NEW.pem`"
        ) from problem
    if not isinstance(key, Ed25519PrivateKey):
        raise ChipError(f"{path} holds no {ALGORITHM} key; `openssl genpkey -algorithm ed25519` makes one")
    return key


def verify_signature(receipt: Mapping[str, Any], public_key: Path | None) -> str:
    """Check the signature of a receipt; the public key that made it, as base64.

    public_key: PEM file of the key that it must be by. Raises ChipError where there is no signature, or it does not
    belong to this receipt or to that key.
    """
    _refuse_without_library()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    held = receipt.get("signature")
    if held is None:
        raise ChipError("the receipt is not signed; sign with --sign when it is written")
    try:
        found = Ed25519PublicKey.from_public_bytes(base64.b64decode(held["public_key"], validate=True))
        if public_key is not None and _public_key(public_key) != found:
            raise InvalidSignature
        found.verify(base64.b64decode(held["value"], validate=True), _signed(receipt))
    except (InvalidSignature, ValueError) as problem:
        by = "" if public_key is None else f" by the key in {public_key}"
        raise ChipError(f"the signature is not one of this receipt{by}: it was changed or forged") from problem
    name: str = held["public_key"]
    return name


def _public_key(path: Path) -> "Ed25519PublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_small(path))
    except (OSError, ValueError, UnsupportedAlgorithm) as problem:
        raise ChipError(f"{path} holds no public key that can be used; `openssl pkey -pubout` prints one") from problem
    if not isinstance(key, Ed25519PublicKey):
        raise ChipError(f"{path} holds no {ALGORITHM} public key")
    return key


def _signed(receipt: Mapping[str, Any]) -> bytes:
    content = {name: value for name, value in receipt.items() if name != "signature"}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _refuse_without_library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as problem:
        raise ChipError("signatures need the library cryptography: pip install 'chip-unlearning[sign]'") from problem
