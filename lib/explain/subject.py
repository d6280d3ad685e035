"""A trained model together with the galaxies it is explained on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps

from lib import training
from lib.explain import faithfulness, maps, sanity
from lib.explain.cache import fingerprint, model_hash
from lib.explain.faithfulness import CONTROLS, Curves, control_maps
from lib.explain.maps import Explainer, MapSettings, cached_maps
from lib.images import ImageCache, network_input, open_cache
from lib.paths import atomic, resolve, step_folder
from lib.schema import InputError, probability_columns
from lib.workflow.code import closure_hash


@dataclass(frozen=True)
class Subject:
    """A scored model, loaded from its saved weights, and what is needed to explain it.

    Attributes
    ----------
    name : str
        Role of the model in the paper, "B0" or "V2M".
    run : TrainedModel
    images : ImageCache
        Crops as the model takes them.
    wide : ImageCache
        The widest crops there are, in colour if possible.
    explainer : Explainer
    cache : Path
        Folder of the maps, and of their scores, made so far.
    """

    name: str
    run: training.TrainedModel
    images: ImageCache
    wide: ImageCache
    explainer: Explainer
    cache: Path

    def inputs(self, galaxy_ids) -> np.ndarray:
        """Images as the model takes them, float32 (n, crop, crop, channels)."""
        pixels = self.images.arrays[self.images.rows(galaxy_ids)]
        return network_input(pixels, self.images.colour)

    def cutouts(self, galaxy_ids) -> np.ndarray:
        """Cut-outs in colour, where the cache has it: uint8 (n, crop, crop, 3 or 1)."""
        return np.asarray(self.images.arrays[self.images.rows(galaxy_ids)])

    def wide_cutouts(self, galaxy_ids) -> np.ndarray:
        """Cut-outs wide enough to see a whole galaxy and its sky: uint8 (n, wide, wide, 3)."""
        return np.asarray(self.wide.arrays[self.wide.rows(galaxy_ids)])

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
        return self._maps(method, table)[0]

    def _maps(self, method: str, table: pd.DataFrame) -> tuple[np.ndarray, int]:
        ids = table["galaxy_id"]
        return cached_maps(
            self.explainer, method, self.inputs(ids), self.targets(table["predicted"]), ids,
            self.cache,
        )  # fmt: skip

    def all_maps(self, methods: list[str], table: pd.DataFrame) -> dict[str, np.ndarray]:
        """Maps by several methods, with one printed line each; controls may be among them.

        Parameters
        ----------
        methods : list of str
            Keys of `lib.explain.maps.METHODS`, or `lib.explain.faithfulness.CONTROLS`.
        table : DataFrame
            Columns galaxy_id and predicted.

        Returns
        -------
        dict
            Method to ndarray (n, crop, crop).
        """
        found = {}
        for method in methods:
            start = time.perf_counter()
            if method in CONTROLS:
                seed = self.explainer.settings.seed
                found[method] = control_maps(method, self.inputs(table["galaxy_id"]), seed)
                made = len(table)
            else:
                found[method], made = self._maps(method, table)
            self._tell(f"{method}, maps of {len(table)} galaxies", made, len(table), start)
        return found

    def _tell(self, what: str, made: int, total: int, start: float) -> None:
        seconds = time.perf_counter() - start
        print(
            f"{self.name}: {what}: {made} made in {seconds:.1f} s, {total - made} from the cache",
            flush=True,
        )

    def _kept(self, kind: str, parts: tuple, make: Callable[[], pd.DataFrame]) -> tuple:
        """Table that `make` gives, made once and then read back, and whether it was made now."""
        key = fingerprint(model_hash(self.explainer), closure_hash(__file__), *parts)
        file = self.cache / kind / f"{key}.parquet"
        missing = not file.exists()
        if missing:
            with atomic(file) as temporary:
                make().to_parquet(temporary)
        return pd.read_parquet(file), missing

    def curves(
        self, by_map: dict[str, np.ndarray], table: pd.DataFrame, steps: int
    ) -> dict[str, Curves]:
        """Insertion and deletion curves of many maps, made once and then read back.

        Parameters
        ----------
        by_map : dict
            Name of the map to ndarray (n, crop, crop), as from `all_maps`.
        table : DataFrame
            n rows with galaxy_id and predicted.
        steps : int
            See `lib.explain.faithfulness.curves`.

        Returns
        -------
        dict
            Name of the map to its curves.
        """
        start, made = time.perf_counter(), 0
        images, targets = self.inputs(table["galaxy_id"]), self.targets(table["predicted"])
        found = {}
        for name, values in by_map.items():
            kept, missing = self._kept(
                "curves",
                (values, images, targets, steps),
                lambda values=values: faithfulness.curves(
                    self.explainer.probabilities, images, values, targets, steps
                ).table(),
            )
            found[name] = Curves.of_table(kept)
            made += missing
        self._tell(f"insertion and deletion curves by {len(by_map)} maps", made, len(by_map), start)
        return found

    def sanity(
        self,
        by_map: dict[str, np.ndarray],
        table: pd.DataFrame,
        calibration_ids,
        *,
        depths: int,
        seed: int,
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both sanity checks of many maps, made once and then read back.

        Parameters
        ----------
        by_map, table
            As for `curves`.
        calibration_ids : sequence of int or str
            Galaxies that BatchNorm statistics are recalibrated on.
        depths, seed : int
            See `lib.explain.sanity.cascade`.

        Returns
        -------
        cascaded, swapped : DataFrame
            From `lib.explain.sanity.cascade` and `lib.explain.sanity.other_class`.
        """
        start = time.perf_counter()
        calibration = self.inputs(calibration_ids)
        test = (
            self.explainer, by_map, self.inputs(table["galaxy_id"]),
            self.targets(table["predicted"]),
        )  # fmt: skip
        parts = (*by_map, *by_map.values(), *test[2:], seed)
        cascaded, first = self._kept(
            "cascade", (*parts, calibration, depths),
            lambda: sanity.cascade(*test, calibration, depths=depths, seed=seed),
        )  # fmt: skip
        swapped, second = self._kept(
            "other-class", parts,
            lambda: sanity.other_class(*test, len(self.run.classes), seed),
        )  # fmt: skip
        self._tell(f"sanity checks of {len(table)} galaxies", first + second, 2, start)
        return cascaded, swapped

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


def check_parameters(
    counts: dict[str, int],
    arm_radii: list[float],
    feature_layers: list[str],
    feature_tiles: list[list[int]],
    colours: str,
    arm_method: str,
    has_truth: bool,
) -> None:
    """Refuse impossible parameters of notebook 05 before any work.

    Parameters
    ----------
    counts : dict
        Name to value of parameters that must be at least 1.
    arm_radii : list of two float
    feature_layers : list of str
    feature_tiles : list of [rows, columns], one per layer
    colours : str
        Name of a matplotlib colour map.
    arm_method : str
        A method, or "" for the best one, which only a survey with truth can tell.
    has_truth : bool
        Whether the survey's truth is known.

    Raises
    ------
    InputError
        Names the parameter, its value and the remedy.
    """
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} = {value}: must be at least 1")
    if len(arm_radii) != 2 or not 0 < arm_radii[0] < arm_radii[1]:
        raise InputError(f"arm_radii = {arm_radii}: give an inner and a larger outer radius in R90")
    if len(feature_layers) != len(feature_tiles):
        raise InputError(
            f"feature_tiles has {len(feature_tiles)} entries for {len(feature_layers)} layers in "
            "feature_layers: give [rows, columns] for each layer"
        )
    if colours not in colormaps:
        raise InputError(f"colours = {colours!r}: no such colour map; try cividis, viridis or jet")
    if arm_method not in maps.METHODS and not (has_truth and arm_method == ""):
        also = ', or "" for the one that finds the arms best' if has_truth else ""
        raise InputError(
            f"arm_method = {arm_method!r}: choose from {', '.join(maps.METHODS)}{also}"
        )


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
    folder = step_folder(run_dir, images)
    cache = open_cache(folder, run.settings["crop"], run.settings["colour"])
    widest = max(
        (int(path.stem.rsplit("_")[-1]) for path in folder.glob("images_rgb_*.npy")), default=0
    )
    wide = open_cache(folder, widest) if widest else cache
    return Subject(
        name=run.settings["role"],
        run=run,
        images=cache,
        wide=wide,
        explainer=Explainer(run.model, settings),
        cache=resolve(run_dir) / "cache" / "maps",
    )
