"""How the headings of radiology reports are spelled: what each of them is called in a benchmark.

Six kinds of section have a name; what else opens one, such as a preliminary reading, is a heading of another kind, "".
"""

import re
import unicodedata
from functools import lru_cache

EXAMINATION = "EXAMINATION"
INDICATION = "INDICATION"
TECHNIQUE = "TECHNIQUE"
COMPARISON = "COMPARISON"
FINDINGS = "FINDINGS"
IMPRESSION = "IMPRESSION"
SECTIONS = (EXAMINATION, INDICATION, TECHNIQUE, COMPARISON, FINDINGS, IMPRESSION)
"""The names of sections, in the order of a report."""
OTHER = ""

_SPELLINGS = {
    EXAMINATION: (
        "examination", "examinations", "exam", "exams", "type of examination", "type of exam", "examination type",
        "exam type", "name of examination", "study", "study type", "type of study", "procedure", "procedures",
        "untersuchung", "art der untersuchung",
    ),
    INDICATION: (
        "indication", "indications", "clinical indication", "clinical indications", "history", "clinical history",
        "patient history", "brief history", "clinical information", "clinical info", "clinical data",
        "clinical details", "clinical statement", "clinical question", "reason", "reason for exam",
        "reason for examination", "reason for the exam", "reason for the examination", "reason for this exam",
        "reason for this examination", "reason for study", "reason for the study", "reason for this study",
        "indication for exam", "indication for examination", "indication for study", "indikation",
        "klinische angaben", "klinische angabe", "fragestellung", "anamnese", "rechtfertigende indikation",
    ),
    TECHNIQUE: ("technique", "techniques", "examination technique", "technik", "untersuchungstechnik"),
    COMPARISON: (
        "comparison", "comparisons", "comparison study", "comparison studies", "comparison exam", "comparison exams",
        "comparison examination", "comparison examinations", "comparison film", "comparison films", "comparison date",
        "prior study", "prior studies", "prior exam", "prior exams", "vergleich", "voraufnahme", "voraufnahmen",
    ),
    FINDINGS: ("findings", "finding", "befund", "befunde"),
    IMPRESSION: (
        "impression", "impressions", "conclusion", "conclusions", "summary", "opinion", "opinions", "final impression",
        "beurteilung", "zusammenfassung",
    ),
    OTHER: (
        "wet read", "preliminary read", "preliminary report", "preliminary findings", "provisional findings impression",
        "provisional findings impression pfi", "notification", "notifications", "recommendation", "recommendations",
        "addendum", "addenda", "final addendum", "attestation", "disclaimer", "empfehlung", "nachtrag",
    ),
}  # fmt: skip
_KNOWN = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}

_PLACES = frozenset((
    "lung", "lungs", "lobe", "lobes", "heart", "cardiac", "cardiovascular", "cardiomediastinum",
    "cardiomediastinal", "silhouette", "mediastinum", "mediastinal", "hila", "hilum", "hilar", "pleura",
    "pleural", "space", "spaces", "bone", "bones", "osseous", "skeletal", "structures", "soft", "tissue",
    "tissues", "abdomen", "upper", "lower", "middle", "diaphragm", "diaphragms", "airway", "airways", "trachea",
    "vessel", "vessels", "vasculature", "vascular", "pulmonary", "parenchyma", "aorta", "line", "lines", "tube",
    "tubes", "catheter", "catheters", "device", "devices", "support", "hardware", "ett", "ngt", "ngtube",
    "picc", "port", "pacemaker", "drain", "drains", "wires", "chest", "wall", "neck", "spine", "ribs", "thorax",
    "thoracic", "visualized", "other", "left", "right", "bilateral", "and", "the", "of", "or",
))  # fmt: skip
"""Words of the paragraphs' headings within findings: `LUNGS AND PLEURA:` opens no section of its own."""

_JOINT = re.compile(r"\s*(?:/|&|\+|,|;|\band\b|\bund\b)\s*")
_PLURAL = re.compile(r"\((?:s|en|n)\)")
_QUALIFIED = re.compile(r"\s*\([^()]*\)\s*$")
_SIGNS = re.compile(r"[\s()\[\]*#>•·._-]+")


@lru_cache(maxsize=1024)
def known_kind(heading: str) -> str | None:
    """What a spelling that is known opens, whatever its case and spacing: a section's name, or OTHER; None where it is
    not known.

    A merged heading opens findings where they are among what it names, otherwise the first that has a name.
    """
    for written in (heading, _QUALIFIED.sub("", heading)):
        spelled = _plain(written)
        if spelled in _KNOWN:
            return _KNOWN[spelled]
    parts = [_plain(part) for part in _JOINT.split(spelled)]
    if len(parts) < 2 or not all(part in _KNOWN for part in parts):
        return None
    names = [_KNOWN[part] for part in parts]
    named = [name for name in names if name]
    return FINDINGS if FINDINGS in named else (named or names)[0]


def names_a_place(heading: str) -> bool:
    """Whether a heading only says where in the body one looks, as paragraphs within findings do."""
    words = _JOINT.sub(" ", _plain(heading)).split()
    return bool(words) and _PLACES.issuperset(words)


def _plain(heading: str) -> str:
    """A heading in small letters, with single spaces, without signs and without what cannot be seen."""
    seen = "".join(sign for sign in unicodedata.normalize("NFKC", heading) if unicodedata.category(sign) != "Cf")
    return _SIGNS.sub(" ", _PLURAL.sub("", seen.casefold())).strip()
