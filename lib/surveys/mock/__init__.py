"""A simulated Galaxy Zoo 2 with known truth.

`galaxies` draws true parameters, `render` makes images and masks, `votes` gives the volunteers'
answers, `features` measures images, and `survey` writes the survey in the real file layout.

Examples
--------
>>> import numpy as np
>>> from lib.surveys.mock import draw_galaxies, render
>>> truth = draw_galaxies(np.random.default_rng(1), 2)
>>> render(next(truth.itertuples(index=False)), 64).shape
(64, 64, 3)
"""

from lib.surveys.mock.galaxies import draw_galaxies
from lib.surveys.mock.render import arm_mask, bulge_mask, render
from lib.surveys.mock.survey import MASS_SHIFT, write_survey
from lib.surveys.mock.votes import ANSWERS, QUESTIONS

__all__ = [
    "ANSWERS",
    "MASS_SHIFT",
    "QUESTIONS",
    "arm_mask",
    "bulge_mask",
    "draw_galaxies",
    "render",
    "write_survey",
]
