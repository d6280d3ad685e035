"""Positions of names, and colour images of positions, from the CDS in Strasbourg.

Every answer is kept with its SHA-256 in ``~/.cache/spiral-arms`` (or below ``$XDG_CACHE_HOME``), so
that the same question has the same answer, without a network too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from lib.images import ImageError
from lib.paths import atomic
from lib.schema import InputError

HIPS2FITS = "https://alasky.cds.unistra.fr/hips-image-services/hips2fits"

SURVEYS = ("CDS/P/SDSS9/color", "CDS/P/PanSTARRS/DR1/color-i-r-g")
"""Colour images of g, r and i, the training's survey first; the second reaches dec = -30."""

PIXELS = 424
"""Width of an image, that of the training's cut-outs."""

_DARK = 16  # grey level that some pixel of a survey's image exceeds where it has seen the sky


def position(name: str) -> tuple[float, float]:
    """Right ascension and declination (ICRS, degrees) of a named object, by astropy and Sesame.

    Raises
    ------
    InputError
        If the name is unknown or there is no network.
    """
    from astropy.coordinates import SkyCoord
    from astropy.coordinates.name_resolve import NameResolveError

    def ask() -> bytes:
        try:
            found = SkyCoord.from_name(name, cache=False)
        except (NameResolveError, OSError) as error:
            raise InputError(
                f"{name!r} is no file, and Sesame does not resolve it ({error}): check the "
                "spelling and the network, or give --radec"
            ) from error
        return f"{found.icrs.ra.deg} {found.icrs.dec.deg}".encode()

    ra, dec = map(float, _kept(f"position {name}", ask).split())
    return ra, dec


def image(ra: float, dec: float, arcmin: float) -> tuple[np.ndarray, str]:
    """Colour image of a position.

    Parameters
    ----------
    ra, dec : float
        ICRS, degrees.
    arcmin : float
        Width of the image.

    Returns
    -------
    image : ndarray, uint8, (`PIXELS`, `PIXELS`, 3)
        North up, east left.
    survey : str
        One of `SURVEYS`.

    Raises
    ------
    InputError
        If the position is impossible, or there is no network.
    ImageError
        If no survey has seen it.
    """
    import requests

    if not (0 <= ra <= 360 and -90 <= dec <= 90 and 0 < arcmin <= 120):
        raise InputError(
            f"ra = {ra}, dec = {dec}, size = {arcmin}: degrees from 0 to 360 and -90 to 90, and "
            "arcminutes up to 120"
        )
    for survey in SURVEYS:
        query = {"hips": survey, "ra": ra, "dec": dec, "fov": round(arcmin / 60, 6)}
        query |= {"width": PIXELS, "height": PIXELS, "projection": "TAN", "format": "jpg"}

        def ask(query=query) -> bytes:
            try:
                answer = requests.get(HIPS2FITS, query, timeout=60)
                answer.raise_for_status()
                with Image.open(io.BytesIO(answer.content), formats=["JPEG"]) as found:
                    found.load()
                return answer.content
            except (requests.RequestException, OSError) as error:
                raise InputError(
                    f"{HIPS2FITS} gives no image ({error}). Names and positions that have not been "
                    "asked for before need the network; image files do not."
                ) from error

        content = _kept(f"{HIPS2FITS} {json.dumps(query)}", ask)
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        if pixels.max() > _DARK:
            return pixels, survey
    raise ImageError(f"no image of ra = {ra}, dec = {dec} in {' or '.join(SURVEYS)}")


def _kept(question: str, ask: Callable[[], bytes]) -> bytes:
    """The answer that is kept, if it is whole, else a new one."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spiral-arms"
    path = folder / hashlib.sha256(question.encode()).hexdigest()[:32]
    card = path.with_suffix(".json")
    if card.is_file() and path.is_file():
        content = path.read_bytes()
        known = json.loads(card.read_text(encoding="utf-8"))["sha256"]
        if hashlib.sha256(content).hexdigest() == known:
            return content
    content = ask()
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    said = {"question": question, "sha256": hashlib.sha256(content).hexdigest()}
    said["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    with atomic(card) as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return content
