"""A simulated Galaxy Zoo 2 with known truth.

`galaxies` draws true parameters, `render` makes images and masks, `votes` plays the volunteers, and
`survey` writes the survey in the real file layout.

Examples
--------
>>> from lib.surveys.mock import simulate_batch
>>> images, counts, truth = simulate_batch(seed=1, n=2, size=64)
>>> images.shape, counts.shape
((2, 64, 64, 1), (2, 37))
"""

from lib.surveys.mock.galaxies import draw_galaxies
from lib.surveys.mock.render import arm_mask, bulge_mask, render
from lib.surveys.mock.survey import MASS_SHIFT, simulate_batch, write_survey
from lib.surveys.mock.votes import ANSWERS, QUESTIONS

__all__ = [
    "ANSWERS",
    "MASS_SHIFT",
    "QUESTIONS",
    "arm_mask",
    "bulge_mask",
    "draw_galaxies",
    "render",
    "simulate_batch",
    "write_survey",
]
