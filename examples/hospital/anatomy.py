"""Draws the hospital's radiographs: small frontal chest films, alike within an institution and within a patient.

Everything is painted as smooth brightness fields on a fine grid and averaged down to 56 x 56. The institution sets the
film (tint, exposure, collimation, side marker), the patient the body (lungs, heart, ribs), the study what the report
says (opacity, device) and a slight change of posture.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .charts import Patient, Study
from .pathology import Field, draw_device, draw_lesion, inside

SIZE = 56
OVERSAMPLING = 4
LUNG_CENTRE = (0.43, -0.05)


@dataclass(frozen=True)
class Film:
    """What an institution's machine does to every image."""

    tint: tuple[float, float, float]
    gamma: float
    grain: float
    margin: tuple[float, float]
    marker: tuple[float, float]


@dataclass(frozen=True)
class Body:
    """What stays the same over a patient's studies."""

    lung_width: float
    lung_height: float
    lean: float
    heart_width: float
    heart_tilt: float
    rib_spacing: float
    rib_slope: float
    rib_contrast: float
    diaphragm: float
    shoulder: float


def draw_radiograph(seed: int, institution: int, patient: Patient, study: Study) -> Image.Image:
    """The study's film, 56 x 56 RGB. `institution` is the institution's place in the hospital."""
    film = _film(random.Random(f"{seed} film {institution}"), institution)
    body = _body(random.Random(f"{seed} body {patient.name}"))
    rng = random.Random(f"{seed} study {study.name}")
    noise = np.random.default_rng(rng.randrange(2**32))

    fine = SIZE * OVERSAMPLING
    rows, columns = (np.mgrid[0:fine, 0:fine] + 0.5) / fine * 2 - 1
    turn, shift = rng.uniform(-0.06, 0.06), rng.uniform(-0.05, 0.05)
    x = columns * np.cos(turn) + rows * np.sin(turn) - shift
    y = rows * np.cos(turn) - columns * np.sin(turn) - rng.uniform(-0.04, 0.04)

    side = 1.0 if study.side == "left" else -1.0  # the patient's left is the right of the film
    density = _chest(body, x, y)
    # The lesion is placed and measured in lungs, so that "upper" is upper in tall and in short people.
    lesion_x = (x * side - LUNG_CENTRE[0]) / body.lung_width
    lesion_y = (y - LUNG_CENTRE[1]) / body.lung_height
    density = density + draw_lesion(study.zone, study.texture, study.lesion, study.size, lesion_x, lesion_y)
    density = np.maximum(density, draw_device(study.device, x * side, y))
    return _expose(film, density, columns, rows, noise)


def _film(rng: random.Random, institution: int) -> Film:
    tints = ((1.0, 1.0, 1.0), (0.82, 0.93, 1.0), (1.0, 0.93, 0.80), (0.86, 1.0, 0.90))
    corners = ((-0.78, -0.80), (0.78, -0.80), (-0.80, 0.02), (0.80, 0.02))
    return Film(
        tint=tints[institution % len(tints)],
        gamma=rng.uniform(0.75, 1.35),
        grain=rng.uniform(0.01, 0.04),
        margin=(rng.uniform(0.90, 1.02), rng.uniform(0.90, 1.02)),
        marker=corners[(institution + institution // len(tints)) % len(corners)],
    )


def _body(rng: random.Random) -> Body:
    return Body(
        lung_width=rng.uniform(0.24, 0.36),
        lung_height=rng.uniform(0.54, 0.70),
        lean=rng.uniform(-0.10, 0.10),
        heart_width=rng.uniform(0.22, 0.42),
        heart_tilt=rng.uniform(0.2, 0.9),
        rib_spacing=rng.uniform(0.15, 0.26),
        rib_slope=rng.uniform(0.15, 0.75),
        rib_contrast=rng.uniform(0.10, 0.24),
        diaphragm=rng.uniform(0.42, 0.62),
        shoulder=rng.uniform(-0.88, -0.70),
    )


def _chest(body: Body, x: Field, y: Field) -> Field:
    side = np.abs(x)
    trunk = inside(side - (0.86 - 0.10 * y), 0.03) * inside(body.shoulder + 0.55 * side**2 - y, 0.03)
    neck = inside(side - 0.20, 0.03) * inside(y + 0.4, 0.05)
    density = 0.62 * np.maximum(trunk, neck)

    # Lungs: two upright superellipses, cut off below by the domes of the diaphragm.
    centre = np.where(x < 0, -LUNG_CENTRE[0], LUNG_CENTRE[0])
    tall = body.lung_height * np.where(x < 0, 1 + body.lean, 1 - body.lean)
    radius = (np.abs((x - centre) / body.lung_width) ** 2.4 + np.abs((y - LUNG_CENTRE[1]) / tall) ** 2.4) ** (1 / 2.4)
    dome = body.diaphragm + 0.9 * (x - centre) ** 2 + np.where(x < 0, -0.05, 0.03)
    lungs = trunk * inside(radius - 1, 0.05) * inside(y - dome, 0.025)
    density = density - 0.46 * lungs

    # Ribs fall away from the spine; they show over the lungs and, fainter, over the flanks.
    ribs = np.cos(2 * np.pi * (y - body.rib_slope * (side - 0.25)) / body.rib_spacing)
    density = density + body.rib_contrast * np.clip(ribs, 0, 1) ** 1.5 * (lungs + 0.25 * trunk * (side > 0.15))
    clavicle = np.exp(-(((y - body.shoulder - 0.17 + 0.12 * side) / 0.035) ** 2)) * inside(side - 0.70, 0.03)
    density = density + 0.20 * clavicle

    spine = np.exp(-((x / 0.10) ** 2)) * (0.85 + 0.15 * np.cos(2 * np.pi * y / 0.17))
    density = density + 0.20 * spine * np.maximum(trunk, neck)
    # The heart lies to the patient's left, which is the right of the film.
    along = (x - 0.14) * np.cos(body.heart_tilt) + (y - 0.24) * np.sin(body.heart_tilt)
    across = -(x - 0.14) * np.sin(body.heart_tilt) + (y - 0.24) * np.cos(body.heart_tilt)
    heart = inside((along / body.heart_width) ** 2 + (across / (0.72 * body.heart_width)) ** 2 - 1, 0.12)
    return density + heart * np.clip(0.80 - density, 0, None)


def _expose(film: Film, density: Field, columns: Field, rows: Field, noise: np.random.Generator) -> Image.Image:
    fine = np.clip(density, 0, 1.05) / 1.05
    marker = (np.abs(columns - film.marker[0]) < 0.07) & (np.abs(rows - film.marker[1]) < 0.09)
    fine = np.where(marker, 1.0, fine)
    open_field = (np.abs(columns) < film.margin[0]) & (np.abs(rows) < film.margin[1])
    fine = np.where(open_field, 0.06 + 0.94 * fine**film.gamma, 0.0)
    small = fine.reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING).mean((1, 3))
    small = small + film.grain * noise.standard_normal(small.shape) * (small > 0)
    pixels = np.clip(small[..., None] * np.array(film.tint), 0, 1) * 255
    return Image.fromarray(np.round(pixels).astype(np.uint8))
