"""Draws reports of chest radiographs by seed: findings that differ, in the manifold shapes that real reports have."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
SIDES = ("left", "right")
SEVERITIES = ("minimal", "small", "mild", "moderate", "severe", "large")
ZONES = ("upper lobe", "mid lung", "lower lobe", "lung base", "apex")
DEVICES = (
    "endotracheal tube ends {n} cm above the carina", "nasogastric tube ends in the stomach",
    "{side} PICC line ends in the mid superior vena cava", "{side} subclavian pacemaker has two leads",
    "{side} chest tube is in unchanged position", "median sternotomy wires are intact",
)  # fmt: skip
COMPLAINTS = (
    "chest pain", "shortness of breath", "fever and cough", "altered mental status", "recent fall",
    "weight loss", "hypoxia", "hemoptysis", "dyspnea on exertion", "line placement",
)  # fmt: skip
ABNORMAL = {
    "Atelectasis": "There is {severity} atelectasis at the {side} {zone}.",
    "Cardiomegaly": "The heart is {severity}ly enlarged.",
    "Consolidation": "A {severity} consolidation occupies the {side} {zone}.",
    "Edema": "There is {severity} pulmonary edema, with Kerley lines.",
    "Fracture": "A fracture of the {side} {n}th rib is noted.",
    "Lung Lesion": "A {n} mm nodule projects over the {side} {zone}.",
    "Lung Opacity": "A {severity} opacity is seen in the {side} {zone}.",
    "Pleural Effusion": "There is a {severity} {side} pleural effusion.",
    "Pneumonia": "Findings are concerning for pneumonia in the {side} {zone}.",
    "Pneumothorax": "A {severity} {side} apical pneumothorax measures {n} mm.",
}
NORMAL = {
    "Cardiomegaly": "The cardiac silhouette is normal in size.",
    "Edema": "There is no pulmonary edema.",
    "Pleural Effusion": "No pleural effusion is seen.",
    "Pneumothorax": "There is no pneumothorax.",
    "Consolidation": "The lungs are clear without focal consolidation.",
    "Fracture": "No acute osseous abnormality is detected.",
}
EXAMINATIONS = ("CHEST (PA AND LAT)", "CHEST (PORTABLE AP)", "CHEST RADIOGRAPH", "DX CHEST 2 VIEW")
TECHNIQUES = ("Chest PA and lateral", "Portable upright chest radiograph", "Semi-erect AP view of the chest")


@dataclass(frozen=True)
class Drawn:
    """A report, what a labeller would say of it, and the sentences that its findings are made of."""

    text: str
    labels: dict[str, float]
    findings: str
    impression: str
    shape: str


def draw_report(rng: random.Random, shape: str = "") -> Drawn:
    """A report by seed, in one of SHAPES or, most often, in the usual one."""
    shape = shape or (rng.choice(tuple(SHAPES)) if rng.random() < 0.5 else "usual")
    present = rng.sample(tuple(ABNORMAL), rng.choice((0, 1, 1, 2, 3)))
    told = [_filled(ABNORMAL[one], rng) for one in present]
    absent = [one for one in rng.sample(tuple(NORMAL), 4) if one not in present]
    sentences = [*told, *(NORMAL[one] for one in absent)]
    labels = {**dict.fromkeys(absent, 0.0), **{one: rng.choice((1.0, 1.0, 1.0, -1.0)) for one in present}}
    if rng.random() < 0.5:
        sentences.append(f"The {_filled(rng.choice(DEVICES), rng)}.")
        labels["Support Devices"] = 1.0
    if not present:
        labels["No Finding"] = 1.0
    findings = " ".join(sentences)
    impression = " ".join(told[:2]) or "No acute cardiopulmonary process."
    text = SHAPES[shape](rng, findings, impression)
    return Drawn(text, labels, findings, impression, shape)


def _filled(sentence: str, rng: random.Random) -> str:
    choices = {"side": SIDES, "severity": SEVERITIES, "zone": ZONES}
    return sentence.format(n=rng.randint(3, 11), **{name: rng.choice(found) for name, found in choices.items()})


def _wrapped(text: str, width: int = 78) -> str:
    """Text broken into lines as the archive does it: a space before each."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}"
    return "\n".join([*lines, line])


def _indication(rng: random.Random) -> str:
    return f"___-year-old {rng.choice(('man', 'woman'))} with {rng.choice(COMPLAINTS)} // {rng.choice(COMPLAINTS)}?"


def _paragraphs(*paragraphs: str) -> str:
    return "\n".join(["                                 FINAL REPORT", *(f"{one}\n " for one in paragraphs), ""])


def _head(rng: random.Random) -> list[str]:
    return [
        f" EXAMINATION:  {rng.choice(EXAMINATIONS)}",
        _wrapped(f"INDICATION:  {_indication(rng)}"),
        f" TECHNIQUE:  {rng.choice(TECHNIQUES)}",
        f" COMPARISON:  {rng.choice(('None.', '___', 'Chest radiograph from ___ at 10:45.'))}",
    ]


def _usual(rng: random.Random, findings: str, impression: str) -> str:
    body = [f" FINDINGS: \n \n{_wrapped(findings)}", f" IMPRESSION: \n \n{_wrapped(impression)}"]
    return _paragraphs(*_head(rng), *body)


def _same_line(rng: random.Random, findings: str, impression: str) -> str:
    start = rng.choice(("REASON FOR EXAM", "REASON FOR EXAMINATION", "CLINICAL INFORMATION", "HISTORY"))
    body = [_wrapped(f"FINDINGS:  {findings}"), _wrapped(f"IMPRESSION:  {impression}")]
    return _paragraphs(f" {start}:  {_indication(rng)}", " COMPARISONS:  None.", *body)


def _one_paragraph(rng: random.Random, findings: str, impression: str) -> str:
    head = f"STUDY:  {rng.choice(TECHNIQUES)}.  HISTORY:  {_indication(rng)}  COMPARISON:  ___."
    return _paragraphs(f" {head}  FINDINGS:  {findings}  IMPRESSION:  {impression}")


def _mixed_case(rng: random.Random, findings: str, impression: str) -> str:
    body = [f"Findings:\n{_wrapped(findings)}", f"Conclusion:\n{_wrapped(impression)}"]
    return _paragraphs("Exam: Chest", f"Clinical history: {_indication(rng)}", *body)


def _merged(rng: random.Random, findings: str, impression: str) -> str:
    heading = rng.choice(("FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "IMPRESSION AND FINDINGS"))
    return _paragraphs(*_head(rng)[:2], _wrapped(f"{heading}:  {findings} {impression}"))


def _without_colons(rng: random.Random, findings: str, impression: str) -> str:
    body = [f" FINDINGS\n{_wrapped(findings)}", f" IMPRESSION\n{_wrapped(impression)}"]
    return _paragraphs(f" INDICATION\n {_indication(rng)}", *body)


def _addendum(rng: random.Random, findings: str, impression: str) -> str:
    usual = _usual(rng, findings, impression)
    return f"{usual}\n ADDENDUM:\n The findings were discussed with Dr. ___ at 10:45 on ___ by phone.\n"


def _wet_read(rng: random.Random, findings: str, impression: str) -> str:
    usual = _usual(rng, findings, impression)
    return f" WET READ: ___ ___ ___ 10:45 PM\n  No acute process seen.\n {'_' * 80}\n{usual}"


def _notified(rng: random.Random, findings: str, impression: str) -> str:
    usual = _usual(rng, findings, impression)
    return f"{usual} NOTIFICATION:  The IMPRESSION was told to Dr. ___ at 11:05.\n \n RECOMMENDATION(S):  Follow-up.\n"


def _paragraph_headings(rng: random.Random, findings: str, impression: str) -> str:
    sentences = findings.split(". ")
    middle = max(1, len(sentences) // 2)
    first, second = ". ".join(sentences[:middle]).rstrip("."), ". ".join(sentences[middle:]).rstrip(".")
    body = f" FINDINGS:\n LUNGS AND PLEURA: {first}.\n HEART: {second or 'Normal'}.\n "
    return _paragraphs(*_head(rng), body, _wrapped(f"IMPRESSION:  {impression}"))


def _no_sections(rng: random.Random, findings: str, impression: str) -> str:
    return _paragraphs(_wrapped(f"AP chest, compared to ___. {findings} {impression}"))


def _impression_only(rng: random.Random, findings: str, impression: str) -> str:
    return _paragraphs(
        _wrapped(f"CHEST, PORTABLE AP:  Comparison is made with ___. {findings}"), f" IMPRESSION: {impression}"
    )


def _two_findings(rng: random.Random, findings: str, impression: str) -> str:
    again = _wrapped(f"FINDINGS:  {rng.choice(tuple(NORMAL.values()))}")
    return _paragraphs(*_head(rng), _wrapped(f"FINDINGS:  {findings}"), again, f" IMPRESSION:  {impression}")


def _windows(rng: random.Random, findings: str, impression: str) -> str:
    return _usual(rng, findings, impression).replace("\n ", "\r\n\t").replace("FINDINGS", "\x0cFINDINGS")


SHAPES = {
    "usual": _usual, "same line": _same_line, "one paragraph": _one_paragraph, "mixed case": _mixed_case,
    "merged": _merged, "without colons": _without_colons, "addendum": _addendum, "wet read": _wet_read,
    "notified": _notified, "paragraph headings": _paragraph_headings, "no sections": _no_sections,
    "impression only": _impression_only, "two findings": _two_findings, "windows": _windows,
}  # fmt: skip
_UNDIVIDED = ("no sections", "impression only", "merged", "two findings", "paragraph headings")
DIVIDED: Sequence[str] = tuple(one for one in SHAPES if one not in _UNDIVIDED)
"""Shapes whose findings and impression are sections of their own, and are exactly what was drawn."""
