"""What identifiers look like: the patterns by which `identifiers.py` finds them, and what each of them leaves alone."""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

NAMES = "names"
PLACES = "addresses and ZIP codes"
DATES = "dates"
AGES = "ages over 89"
PHONES = "telephone numbers"
FAXES = "fax numbers"
MAILS = "e-mail addresses"
SOCIAL = "social security numbers"
RECORDS = "medical record and accession numbers"
PLANS = "health plan numbers"
ACCOUNTS = "account numbers"
LICENCES = "certificate and licence numbers"
VEHICLES = "vehicle identifiers"
DEVICES = "device identifiers"
URLS = "web addresses"
ADDRESSES = "IP addresses"
NUMBERS = "other long numbers"
USERS = "user names in file paths"

NUMBERED = frozenset({RECORDS, NUMBERS})
"""Kinds that an id of the data set itself may look like: where a node is named by it, it is no finding."""


@dataclass(frozen=True)
class Pattern:
    """What a kind looks like; `allowed` says whether a match is one after all. The group `it`, where there is one, is
    what is found, and the rest of the expression is what it stands beside."""

    kind: str
    expression: re.Pattern[str]
    allowed: Callable[[str], bool] = lambda text: True


_MONTH = (
    r"(?:(?i:jan(?:uary)?|feb(?:ruary)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?"
    r"|dec(?:ember)?)|Mar(?:ch)?|MAR(?:CH)?|May|MAY)"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?i:st|nd|rd|th)?"
_YEAR = r"(?:1[89]|20)\d\d"
_B, _E = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
"""Where a word begins and ends."""

_FOUR_FIRST = r"\d{4}(?P<s>[-/.])\d{1,2}(?P=s)\d{1,2}"
_FOUR_LAST = r"\d{1,2}(?P<t>[-/.])\d{1,2}(?P=t)(?:\d{4}|\d{2})"
_SHORT = rf"(?:0?[1-9]|1[0-2])/{_DAY}|(?:1[3-9]|2\d|3[01])/(?:0?[1-9]|1[0-2])"
_MONTH_OF_YEAR = rf"(?:0?[1-9]|1[0-2])/{_YEAR}"
_COUNTED = (
    "of|to|views?|images?|slices?|levels?|ribs?|lobes?|zones?|lungs?|vertebra[el]?|discs?|strength|power|motor|motion"
    "|bottles?|cultures?|murmurs?|systolic|days?|hours?|doses?|normal"
)
"""What "on 2/3" counts where it is no date."""
_NO_COUNT = rf"(?![\w/-]|[.]\d)(?!\s{{1,2}}(?i:{_COUNTED})(?![A-Za-z]))"
_STUDY = r"(?:CTA?|MRI|CXR|[Xx]-?[Rr]ays?|(?i:films?|stud(?:y|ies)|radiographs?|scans?|ultrasounds?|mammograms?))"
_EXAM = r"(?i:exam(?:ination)?s?)"
_RATED = r"[0-5]/5(?!\d)"
"""A strength, which stands beside "exam" as a date would."""
_WHEN = (
    r"(?:(?i:on|dated|since|until|from|compar(?:ed|ison)(?:\s{1,2}(?:to|with|is|made))?:?)"
    rf"|(?:{_STUDY}|{_EXAM}|MR)\s{{1,3}}(?i:of|from|at)|{_STUDY}|{_EXAM}(?!\s{{1,3}}{_RATED}))"
)
"""What stands before a day and a month."""
_OLD = r"9\d|1[0-4]\d"
_TELEPHONE = r"(?i:tel(?:ephone)?|phone|pager|beeper|mobile|ext)\b\.?"
_TITLE = "Drs?|Mr|Mrs|Ms|Miss|Prof|Professor|Doctor"
_NO_TITLE = rf"(?!(?i:{_TITLE})(?![A-Za-z]))"
_DEGREE = r"(?:M\.?D\.?|D\.?O\.?|R\.?N\.?|Ph\.?D\.?)(?![A-Za-z])"
_ROLE = r"patient(?:'s)?(?:\s{1,2}name)?|name|attending|radiologist|physician|resident|technologist|surgeon|provider"
_TOLD = "discussed|reported|communicated|reviewed|telephoned|notified|informed|conveyed|relayed"
_DONE = (
    "dictated|signed|transcribed|approved|interpreted|verified|performed|requested|ordered|entered|read|electronically"
)
_HOW = r"(?:\s{1,2}(?:[a-z]{2,20}ly|(?:by|via|over the)\s{1,2}(?:tele)?phone|in person))?"
_BY = rf"(?:(?i:(?:{_TOLD}){_HOW}\s{{1,3}}(?:by|with|to))|(?i:(?:{_DONE}){_HOW}\s{{1,3}}by))"
"""What stands before whoever did or was told something; materials are what is performed *with*."""

_NO = r"(?:\s{0,2}(?i:numbers?|num\b|nos?\b|ids?\b|identifiers?|codes?)\.?|\s{0,2}\#)"
_IS = r"(?:\s{1,2}(?:is|was)\b)?[\s:=#]{0,4}"
_TOKEN = r"(?P<it>[A-Za-z0-9](?:[-/]?[A-Za-z0-9]){2,30})" + _E

_PERSON = r"[^\W\d_][^\W\d_]{0,30}(?:['’-][^\W\d_]{1,30}){0,2}"
_CAPITAL = r"(?:(?!\s)[A-ZÀ-Þ](?:[a-zß-ÿ]|['’-](?=[^\W\d_])|(?<=[a-z'’-])[A-Z]){1,30})"
_WRITTEN = r"[A-Z][A-Za-z'’-]{1,30}"
_ALOUD = r"[A-Z][A-Z'’-]{1,30}(?![a-z])"
_INITIAL = r"(?:[A-Z]\.?\s{1,3})?"
_INITIALS = r"(?:[A-Z]\.\s{0,3}|[A-Z]\s{1,3}){0,3}"
_PARTICLES = r"(?:(?:van|von|vom|zu|der|den|des|de|del|della|di|da|dos|du|la|le|el|al|bin|ibn|ten|ter)[\s-]{1,2}){0,3}"
"""What a surname may begin with in small letters."""
_NOT_PERSONS = """
    a an and any are as at be by cm ct for from has he her his if in is it its mm mri mr my no none not of on or
    our she the their there these they this to view was were will with without anesthesia attending cardiology
    clinic clinical department doctor ed emergency er family female floor general hospital house icu internal
    intensive left male medicine neurology neurosurgery normal nurse nursing oncology operating orthopedics
    pathology patient pediatrics physician portable prone radiologist radiology referring resident right rotated
    service staff supine surgeon surgery surgical team thoracic trauma unit unknown upright urology ward
    critical gastroenterology hematology hospitalist infection intern interventional nurses ortho orthopaedics pa
    primary psychiatry pulmonary rheumatology transplant ultrasound vascular
    findings impression indication history comparison technique examination report study chest acute bilateral
    status stable unchanged
"""
"""What follows a role, "reviewed by" or "MR." in reports and is no name."""


def _person(text: str) -> bool:
    first = re.split(r"[\s.,]", re.sub(r"^(?:[A-Za-z]\.\s*)+", "", text), maxsplit=1)[0].lower()
    return first not in _NOT_PERSONS.split()


def _date(text: str) -> bool:
    """Whether three numbers are a day, a month and a year in one of the usual orders."""
    numbers = re.findall(r"\d{1,4}", text)
    if len(numbers[0]) == 4:
        return 1 <= int(numbers[1]) <= 12 and 1 <= int(numbers[2]) <= 31 and 1800 <= int(numbers[0]) <= 2199
    one, two = int(numbers[0]), int(numbers[1])
    year = int(numbers[2])
    plausible = len(numbers[2]) == 2 or (len(numbers[2]) == 4 and 1800 <= year <= 2199)
    return plausible and 1 <= min(one, two) <= 12 and 1 <= max(one, two) <= 31


def _social(text: str) -> bool:
    area = text[:3]
    return area not in ("000", "666") and area[0] != "9"


def _internet(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _three_digits(text: str) -> bool:
    return sum(sign.isdigit() for sign in text) >= 3


def _phone(text: str) -> bool:
    return 7 <= sum(sign.isdigit() for sign in text) <= 15


def _of(kind: str, expression: str, allowed: Callable[[str], bool] = lambda text: True) -> Pattern:
    return Pattern(kind, re.compile(expression), allowed)


def _labelled(kind: str, words: str, numbered: str = "") -> Iterator[Pattern]:
    """A number named by what stands before it; `numbered` are words that count only before "number", "no." or "#"."""
    before = rf"(?:(?i:{words}){_NO}?" + (rf"|(?i:{numbered}){_NO}" if numbered else "") + ")"
    yield Pattern(kind, re.compile(_B + before + r"\)?" + _IS + _TOKEN), _three_digits)


_STATE = (
    "A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|P[AR]|RI|S[CD]|T[NX]|UT|V[AT]"
    "|W[AIVY]"
)
_STREET = "(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Court|Ct|Place|Square|Highway|Hwy|Parkway)"

PATTERNS: tuple[Pattern, ...] = (
    _of(MAILS, r"(?<![\w.+-])[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,6}"),
    _of(URLS, r"(?i)(?:https?|ftp)://[^\s\"'<>]{1,400}|(?<![\w.])www\.[^\s\"'<>]{1,400}"),
    _of(URLS, r"(?i)(?<![\w.@-])[a-z][a-z0-9-]{1,62}\.(?:com|org|net|edu|gov)(?![\w-])(?:/\S{0,300})?"),
    _of(USERS, r"(?i)(?:/home/|/users/|[a-z]:\\{1,2}users\\{1,2})(?P<it>[^\s/\\\"']{1,64})"),
    _of(ADDRESSES, r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", allowed=_internet),
    _of(ADDRESSES, r"(?<![\w:.])(?=[0-9A-Fa-f:]{0,38}[0-9A-Fa-f]:)[0-9A-Fa-f:]{4,39}(?![\w:])", allowed=_internet),
    _of(SOCIAL, r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])", allowed=_social),
    _of(SOCIAL, r"(?:(?i:social security)|SSN)" + _NO + "?" + _IS + r"(?P<it>\d{3}[- ]?\d{2}[- ]?\d{4})(?!\d)"),
    *_labelled(
        RECORDS,
        "MRN|medical record|accession|acc(?=\\s?#)|patient id|pat id",
        "record|chart|hospital|case|encounter|exam|order|patient|study|specimen",
    ),
    *_labelled(PLANS, "medicare|medicaid|beneficiary|insurance|HICN", "policy|member|subscriber|group|plan"),
    *_labelled(ACCOUNTS, "acct", "account|invoice|billing|bank|card"),
    *_labelled(LICENCES, "NPI|passport", "licen[cs]e|certificate|DEA|badge|registration"),
    *_labelled(VEHICLES, "VIN|licen[cs]e plate|number plate", "plate|vehicle"),
    *_labelled(DEVICES, "serial|S/N|UDI", "device|lot|model|implant|generator|station"),
    _of(DEVICES, r"(?<![\w.])[0-2](?:\.\d{1,39}){6,20}(?![\w])"),
    _of(FAXES, _B + r"(?i:fax)" + _NO + "?" + _IS + r"(?P<it>\(?\+?\d[\d\s().-]{5,20}\d)", allowed=_phone),
    _of(PHONES, r"(?<![\w.+-])(?:\+?1[-. ]?)?(?:\(\d{3}\)\s?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-])"),
    _of(PHONES, r"(?<![\w+])\+\d{1,3}(?:[ ./-]?\(?\d{1,5}\)?){2,6}(?![\w])", allowed=_phone),
    _of(PHONES, _B + _TELEPHONE + _NO + "?" + _IS + r"(?P<it>\(?\+?\d[\d().-]{2,20})", allowed=_three_digits),
    _of(DATES, _B + rf"(?:{_FOUR_FIRST}|{_FOUR_LAST})(?![\d-]|[./]\d)", allowed=_date),
    _of(DATES, rf"(?<![A-Za-z0-9.])(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]){_E}"),
    _of(DATES, _B + rf"{_DAY}[\s-]{{1,3}}(?:of\s{{1,2}})?{_MONTH}{_E}(?:\.?,?[\s-]{{1,3}}{_YEAR})?"),
    _of(DATES, _B + rf"{_MONTH}\.?[\s-]{{1,3}}(?:{_DAY}(?:,?[\s-]{{1,3}}{_YEAR})?|,?\s{{0,2}}{_YEAR}){_E}"),
    _of(DATES, rf"(?<![\w/.-]){_MONTH_OF_YEAR}(?![\w/-]|[.]\d)"),
    _of(DATES, _B + rf"{_WHEN}\s{{1,3}}(?P<it>{_SHORT}){_NO_COUNT}"),
    _of(DATES, _B + rf"(?i:the|prior|previous|recent|outside)\s{{1,3}}(?P<it>{_SHORT})\s{{1,3}}(?:{_STUDY}|MR){_E}"),
    _of(AGES, _B + rf"(?P<it>{_OLD})(?:[\s-]{{0,2}}(?i:years?|yrs?)(?![a-z])|\s?(?i:y\.?\s?/?o)(?![a-z]))"),
    _of(AGES, _B + r"(?i:aged?)" + _IS + r"(?:of\s{1,2})?(?P<it>" + _OLD + r")(?![\w%]|[.]\d)"),
    _of(AGES, r"(?i)in (?:his|her|their) (?P<it>(?:early |mid-?|late )?(?:90s|90's|nineties))"),
    _of(PLACES, _B + rf"\d{{1,5}}\s{{1,2}}(?:[NSEW]\.?\s{{1,2}})?(?:[A-Z][a-z]{{1,20}}\s{{1,2}}){{1,3}}{_STREET}{_E}"),
    _of(PLACES, _B + r"[A-ZÄÖÜ][a-zäöüß]{1,30}(?:stra(?:ß|ss)e|str\.|weg|platz|allee)\s{1,2}\d{1,4}"),
    _of(PLACES, r"(?i)" + _B + r"(?:P\.?\s?O\.?\s?Box\s{1,2}\d{1,6}|zip(?:\s?code)?[\s:#]{1,3}\d{5}(?:-\d{4})?)"),
    _of(PLACES, rf"{_B}(?:{_STATE})\s{{1,2}}\d{{5}}(?:-\d{{4}})?(?![\w-])|(?<![\w-])\d{{5}}-\d{{4}}(?![\w-])"),
    _of(
        NAMES,
        _B
        + rf"(?:(?:{_TITLE})\.?\s{{1,3}}{_NO_TITLE}(?P<it>{_INITIALS}{_PARTICLES}{_CAPITAL}(?:\s{{1,2}}{_CAPITAL})?))",
    ),
    _of(NAMES, _B + rf"(?:DRS?|MRS|PROF)\.?\s{{1,3}}{_NO_TITLE}(?P<it>{_INITIALS}{_ALOUD}(?:[ \t]{{1,2}}{_ALOUD})?)"),
    _of(NAMES, _B + rf"(?i:{_TITLE})\.\s{{1,3}}{_NO_TITLE}(?P<it>(?:[A-Za-z]\.\s{{1,3}})?{_PERSON})", allowed=_person),
    _of(
        NAMES,
        _B + rf"(?P<it>{_WRITTEN}(?:\s{{1,2}}[A-Z]\.?)?\s{{1,2}}{_WRITTEN}),?\s{{1,3}}(?:{_DEGREE})",
        allowed=_person,
    ),
    _of(
        NAMES,
        _B + rf"{_BY}[\s:]{{1,3}}{_NO_TITLE}(?P<it>{_INITIAL}{_PARTICLES}{_CAPITAL}(?:\s{{1,2}}{_CAPITAL})?)",
        allowed=_person,
    ),
    _of(
        NAMES,
        _B + rf"{_BY}(?:\s{{0,2}}:\s{{0,3}}{_NO_TITLE}(?P<it>{_INITIAL}{_WRITTEN}(?:,?[ \t]{{1,2}}{_WRITTEN}){{0,2}}))",
        allowed=_person,
    ),
    _of(
        NAMES,
        _B + rf"(?i:(?:{_DONE}){_HOW}\s{{1,3}}by)\s{{1,3}}{_NO_TITLE}"
        rf"(?P<it>{_INITIAL}{_ALOUD}(?:,?[ \t]{{1,2}}{_ALOUD}){{1,2}})",
        allowed=_person,
    ),
    _of(
        NAMES,
        _B + rf"(?i:{_ROLE})(?:\s{{0,2}}:|(?:\s{{1,2}}is)?\s{{1,2}}named)\s{{0,3}}"
        rf"{_NO_TITLE}(?P<it>{_INITIAL}{_PARTICLES}{_WRITTEN}(?:,?\s{{1,2}}{_WRITTEN}){{0,2}})",
        allowed=_person,
    ),
    _of(NAMES, _B + rf"{_WRITTEN}\^[A-Z][A-Za-z'’-]{{0,30}}"),
    _of(NUMBERS, r"(?<![A-Za-z0-9.,-])\d{7,40}(?![A-Za-z0-9]|[.,]\d)"),
)
"""The more telling ones first: where two match the same place, the first one counts."""
