"""What an image file holds beside its picture: EXIF, text, comments, profiles, and bytes after its end.

The containers are walked chunk by chunk, by the PNG specification (W3C) and by JPEG's markers (ITU-T T.81, annex B); of
what is found only its kind is told.
"""

import io
import struct
from collections.abc import Iterator

from PIL import ImageCms

from chip.images import opened

EXIF = "EXIF"
TEXT = "text and comments in image files"
XMP = "XMP and IPTC"
PROFILE = "colour profiles with a description of their own"
TRAILING = "bytes after an image's end"
DICOM = "DICOM files"
OTHER = "unknown parts of image files"

_SHAPE_TAGS = frozenset(
    {0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0112, 0x0115, 0x0116, 0x0117, 0x011A, 0x011B, 0x011C, 0x0128}
    | {0x013D, 0x0140, 0x0152, 0x0153, 0x0213, 0x8769}
)
"""Tags that say how pixels are laid out and nothing of whose they are; 0x8769 leads to more of them."""
_SHAPE_EXIF = frozenset({0x9000, 0x9101, 0xA000, 0xA001, 0xA002, 0xA003})
_COMMON_PROFILES = ("srgb", "adobe rgb", "display p3", "gray", "grey", "dot gain")
_PNG_PICTURE = frozenset(
    {
        b"IHDR",
        b"PLTE",
        b"IDAT",
        b"IEND",
        b"tRNS",
        b"cHRM",
        b"gAMA",
        b"sBIT",
        b"sRGB",
        b"bKGD",
        b"hIST",
        b"pHYs",
        b"cICP",
    }
)
_PNG_KINDS = {b"tEXt": TEXT, b"zTXt": TEXT, b"iTXt": TEXT, b"tIME": TEXT, b"eXIf": EXIF, b"iCCP": PROFILE}


def hidden_parts(content: bytes) -> tuple[str, ...]:
    """The kinds of what an image file's bytes hold beside its picture, each once, in alphabetical order; raises one of
    `chip.images.DAMAGED` where those that Pillow reads do not decode."""
    return tuple(sorted(set(_parts(content))))


def _parts(content: bytes) -> Iterator[str]:
    if content[128:132] == b"DICM":
        yield DICOM
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        yield from _png(content)
    elif content.startswith(b"\xff\xd8"):
        yield from _jpeg(content)
    else:
        yield from _described(content)


def _png(content: bytes) -> Iterator[str]:
    at = 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        name = content[at + 4 : at + 8]
        kind = _PNG_KINDS.get(name, "" if name in _PNG_PICTURE else OTHER)
        if kind in (EXIF, PROFILE):
            yield from _described(content)
        elif kind == TEXT and content[at + 8 :].startswith(b"XML:com.adobe.xmp\0"):
            yield XMP
        elif kind:
            yield kind
        at += length + 12
        if name == b"IEND":
            break
    if at < len(content):
        yield TRAILING


def _jpeg(content: bytes) -> Iterator[str]:
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            break
        (length,) = struct.unpack_from(">H", content, at + 2)
        yield from _segment(marker, content[at + 4 : at + 2 + length], content)
        at += 2 + max(length, 2)
        if marker == 0xDA:
            at = _after_scan(content, at)
    if content[at : at + 2] != b"\xff\xd9" or at + 2 < len(content):
        yield TRAILING


def _segment(marker: int, body: bytes, content: bytes) -> Iterator[str]:
    if marker == 0xFE:
        yield TEXT
    elif marker == 0xE1 and body.startswith(b"Exif\0"):
        yield from _described(content)
    elif marker == 0xE1 or (marker == 0xED and body.startswith(b"Photoshop")):
        yield XMP
    elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
        yield from _described(content)
    elif (marker == 0xE0 and body.startswith(b"JFIF\0")) or (marker == 0xEE and body.startswith(b"Adobe")):
        return
    elif 0xE0 <= marker <= 0xEF:
        yield OTHER


def _after_scan(content: bytes, at: int) -> int:
    """The next marker after a scan: its data hold 0xFF only before 0 and before restart marks."""
    while (at := content.find(b"\xff", at)) >= 0 and at + 1 < len(content):
        if content[at + 1] != 0 and not 0xD0 <= content[at + 1] <= 0xD7:
            return at
        at += 2
    return len(content)


def _described(content: bytes) -> Iterator[str]:
    """What Pillow reads of the parts that have a form of their own."""
    with opened(io.BytesIO(content)) as image:
        exif = image.getexif()
        more = exif.get_ifd(0x8769)
        if set(exif) - _SHAPE_TAGS or set(more) - _SHAPE_EXIF:
            yield EXIF
        if image.info.get("comment") and image.format != "JPEG":
            yield TEXT
        if image.info.get("xmp"):
            yield XMP
        if (profile := image.info.get("icc_profile")) and not _is_common(profile):
            yield PROFILE


def _is_common(profile: bytes) -> bool:
    """Whether a profile is one of those that every program brings, by its description."""
    try:
        said = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (OSError, ImageCms.PyCMSError):
        return False
    return any(name in said.lower() for name in _COMMON_PROFILES)
