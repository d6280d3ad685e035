"""A trained model together with the galaxies it is explained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib import training
from lib.explain.maps import Explainer, MapSettings, cached_maps
from lib.images import ImageCache, network_input, open_cache
from lib.paths import resolve, step_folder
from lib.schema import InputError, probability_columns


@dataclass(frozen=True)
class Subject:
    """A scored model, loaded from its saved weights, and what is needed to explain it.

    Attributes
    ----------
    name : str
        Role of the model in the paper, "B0" or "V2M".
    run : TrainedModel
    images : ImageCache
    explainer : Explainer
    cache : Path
        Folder of the maps made so far.
    """

    name: str
    run: training.TrainedModel
    images: ImageCache
    explainer: Explainer
    cache: Path

    def inputs(self, galaxy_ids) -> np.ndarray:
        """Images as the model takes them, float32 (n, crop, crop, channels)."""
        pixels = self.images.arrays[self.images.rows(galaxy_ids)]
        return network_input(pixels, self.images.colour, self.run.settings["input_scale"])

    def cutouts(self, galaxy_ids) -> np.ndarray:
        """Cut-outs in colour, where the cache has it: uint8 (n, crop, crop, 3 or 1)."""
        return np.asarray(self.images.arrays[self.images.rows(galaxy_ids)])

    def targets(self, predicted) -> np.ndarray:
        """Index, int64 (n,), of predicted classes in the model's output."""
        return pd.Index(self.run.classes).get_indexer(pd.Index(predicted))

    def maps(self, method: str, table: pd.DataFrame) -> np.ndarray:
        """Maps for the *predicted* class of each galaxy of a table, made once and then read back.

        Parameters
        ----------
        method : str
        table : DataFrame
            Columns galaxy_id and predicted.

        Returns
        -------
        ndarray, float32 (n, crop, crop)
        """
        ids = table["galaxy_id"]
        return cached_maps(
            self.explainer, method, self.inputs(ids), self.targets(table["predicted"]), ids,
            self.cache,
        )  # fmt: skip

    def reproduces(self, table: pd.DataFrame) -> float:
        """Largest difference between saved probabilities and those of the loaded model.

        Raises
        ------
        InputError
            If it exceeds 0.01: then the explained model is not the one that was scored.
        """
        saved = table[probability_columns(self.run.classes)].to_numpy()
        now = self.explainer.probabilities(self.inputs(table["galaxy_id"]))
        difference = float(np.abs(saved - now).max())
        if not difference < 0.01:
            raise InputError(
                f"{self.name}: the saved model gives other probabilities than predictions.parquet "
                f"(they differ by up to {difference:.3f}): run its training notebook again"
            )
        return difference


def open_subject(run_dir: str, step: str, images: str, settings: MapSettings) -> Subject:
    """Load a training run's model and open the images it was trained on.

    Parameters
    ----------
    run_dir : str
        Folder of the run.
    step, images : str
        Folders of the training step and of the pre-processing step below it.
    settings : MapSettings

    Raises
    ------
    InputError
        If a folder, model or image is missing, or the model cannot be explained.
    """
    run = training.load_run(step_folder(run_dir, step))
    cache = open_cache(
        step_folder(run_dir, images), run.settings["crop"], run.settings["colour"]
    )
    return Subject(
        name=run.settings["role"],
        run=run,
        images=cache,
        explainer=Explainer(run.model, settings),
        cache=resolve(run_dir) / "cache" / "maps",
    )
