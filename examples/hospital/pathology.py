"""Draws what a report names on a radiograph: the lesion, and the device that lies in or on the patient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]

# A zone's centre, outwards from the middle of the lung and downwards, in half widths and half heights of a lung.
ZONES = {
    "apical": (-0.10, -0.74),
    "upper": (0.15, -0.46),
    "perihilar": (-0.80, -0.08),
    "middle": (0.35, -0.05),
    "lower": (0.15, 0.36),
    "basal": (0.10, 0.70),
}

# How far a lesion spreads across and down, relative to its size.
OUTLINES = {
    "nodule": (1.0, 1.0),
    "mass": (1.5, 1.4),
    "opacity": (1.2, 1.7),
    "scar": (0.6, 1.9),
    "infiltrate": (2.0, 0.9),
    "consolidation": (2.1, 1.3),
}


def inside(distance: Field, softness: float) -> Field:
    """1 where `distance` is well below 0, 0 well above it, smooth in between."""
    return 1 / (1 + np.exp(np.clip(distance / softness, -30, 30)))


def draw_lesion(zone: str, texture: str, lesion: str, size: int, x: Field, y: Field) -> Field:
    """Brightness that the lesion adds; x outwards and y downwards, in half widths and half heights of its lung."""
    spread = 0.16 + 0.007 * size
    wide, tall = OUTLINES[lesion]
    across = (x - ZONES[zone][0]) / (spread * wide)
    down = (y - ZONES[zone][1]) / (spread * tall * 0.55)
    radius, angle = np.hypot(across, down), np.arctan2(down, across)
    textures = {
        "round": inside(radius - 1, 0.08),
        "spiculated": inside(radius - 0.85 - 0.22 * np.cos(9 * angle), 0.16),
        "hazy": 0.8 * np.exp(-(radius**2) / 1.6),
        "dense": 1.3 * inside(radius - 1, 0.15),
        "streaky": inside(radius - 1.1, 0.15) * (0.5 + 0.5 * np.cos(8 * (across + 0.6 * down))),
        "cavitating": inside(np.abs(radius - 0.8) - 0.25, 0.08),
        "lobulated": inside(radius - 0.9 - 0.16 * np.cos(4 * angle), 0.08),
        "calcified": 0.5 * inside(radius - 1, 0.08) + 0.9 * inside(radius - 0.45, 0.08),
    }
    return 0.42 * textures[texture]


def draw_device(device: str, x: Field, y: Field) -> Field:
    """Brightness of the device; x runs from the midline towards the side where it lies, 1 is half the film."""

    def line(distance: Field, visible: Field, width: float = 0.022) -> Field:
        return 0.95 * np.exp(-((distance / width) ** 2)) * visible

    def between(value: Field, low: float, high: float) -> Field:
        return inside(low - value, 0.02) * inside(value - high, 0.02)

    if device == "PICC line":
        arm = line(y + 0.62 - 0.5 * np.clip(x - 0.12, 0, None) ** 1.2, between(x, 0.12, 2))
        return np.maximum(arm, line(x - 0.12, between(y, -0.62, 0.10)))
    if device == "pacemaker":
        box = inside(((x - 0.50) / 0.15) ** 4 + ((y + 0.50) / 0.10) ** 4 - 1, 0.05)
        lead = 0.46 - 0.42 * np.sin(np.clip((y + 0.44) * 2.2, 0, np.pi))
        return np.maximum(box, line(x - lead, between(y, -0.44, 0.42)))
    if device == "feeding tube":
        return line(x - 0.05 - 0.45 * np.clip(y - 0.35, 0, None), np.ones_like(y))
    if device == "chest drain":
        return line(y - 0.30 + 0.8 * (x - 0.30), between(x, 0.28, 2), 0.032)
    if device == "sternal wires":
        loops = np.clip(np.cos(2 * np.pi * y / 0.20), 0, 1) ** 4
        return loops * inside(np.abs(x) - 0.09, 0.02) * between(y, -0.50, 0.60)
    if device == "tracheal tube":
        return line(np.abs(x) - 0.05, between(y, -2, -0.30), 0.018)
    if device == "dialysis catheter":
        return line(x - 0.16 - 0.25 * np.clip(-0.45 - y, 0, None), between(y, -2, 0.22), 0.045)
    if device == "port catheter":
        port = inside(np.hypot((x - 0.50) / 0.09, (y + 0.30) / 0.09) - 1, 0.10)
        catheter = line(y + 0.30 + 0.55 * np.sqrt(np.clip(0.50 - x, 0, None)), between(x, 0.14, 0.50))
        return np.maximum(port, catheter)
    raise ValueError(f"No drawing for the device {device!r}.")
