"""A trained network together with the galaxies it is explained on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lib import training
from lib.evaluation import predicted_probability
from lib.explain import faithfulness, sanity
from lib.explain.cache import fingerprint, meaning
from lib.explain.maps import Explainer
from lib.images import ImageCache, network_input, open_cache
from lib.paths import atomic, resolve, step_folder
from lib.schema import InputError, probability_columns
from lib.workflow.code import closure_hash


@dataclass(frozen=True)
class Subject:
    """A scored network, loaded from its saved weights, and what is needed to explain it.

    Maps and their scores are made once and then read back, as long as code, weights, images and
    methods stay; so a run that was killed goes on where it was.

    Attributes
    ----------
    name : str
        Role of the network in the paper, "B0" or "V2M".
    run : TrainedModel
    images : ImageCache
        Crops as the network takes them.
    wide : ImageCache
        The widest crops there are, in colour if possible.
    explainer : Explainer
    cache : Path
        Folder of what was made so far.
    """

    name: str
    run: training.TrainedModel
    images: ImageCache
    wide: ImageCache
    explainer: Explainer
    cache: Path

    @property
    def binning(self) -> int:
        """Pixels of a survey's image along a pixel of the cache."""
        return self.images.index.attrs["binning"]

    def inputs(self, galaxy_ids) -> np.ndarray:
        """Images as the network takes them, float32 (n, crop, crop, channels)."""
        return network_input(self.cutouts(galaxy_ids), self.images.colour)

    def cutouts(self, galaxy_ids) -> np.ndarray:
        """Cut-outs in colour, where the cache has it: uint8 (n, crop, crop, 3 or 1)."""
        return np.asarray(self.images.arrays[self.images.rows(galaxy_ids)])

    def wide_cutouts(self, galaxy_ids) -> np.ndarray:
        """Cut-outs wide enough to see a whole galaxy and its sky: uint8 (n, wide, wide, 3)."""
        return np.asarray(self.wide.arrays[self.wide.rows(galaxy_ids)])

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 (n, classes), of images as the network takes them."""
        return self.run.model.predict_on_batch(pixels)

    def table(self, galaxy_ids=None) -> pd.DataFrame:
        """Predictions for chosen galaxies, in the order asked for, or for all.

        Returns
        -------
        DataFrame
            Rows of the run's predictions, and ``probability``, that of the class predicted.

        Raises
        ------
        InputError
            Names the galaxies that are not in the table.
        """
        known = self.run.predictions.assign(probability=predicted_probability)
        if galaxy_ids is None:
            return known
        kind = known["galaxy_id"].dtype
        try:
            wanted = pd.Index(galaxy_ids).astype(kind)
        except (TypeError, ValueError) as error:
            raise InputError(f"galaxy_ids {galaxy_ids}: must be of type {kind}") from error
        unknown = wanted.difference(known["galaxy_id"])
        if len(unknown):
            raise InputError(
                f"galaxy_ids {', '.join(map(str, unknown))}: not among the {len(known)} galaxies "
                "that the network has predictions for (sample.parquet of notebook 01 lists them)"
            )
        return known.set_index("galaxy_id").loc[wanted].rename_axis("galaxy_id").reset_index()

    def maps(self, method: Callable, galaxies: pd.DataFrame) -> np.ndarray:
        """Maps by a method, see `lib.explain.maps`, for the *predicted* class of each galaxy.

        float32 (n, crop, crop); `galaxies` has the columns galaxy_id and predicted, here as below.
        """
        start, (images, targets) = time.perf_counter(), self._asked(galaxies)
        folder = self.cache / "maps" / self._key(meaning(method))
        files = [
            folder / f"{galaxy}-{target}-{fingerprint(image)}.npy"
            for galaxy, target, image in zip(galaxies["galaxy_id"], targets, images, strict=True)
        ]
        missing = [n for n, file in enumerate(files) if not file.exists()]
        for n in missing:
            made = self.explainer.maps(method, images[n : n + 1], targets[n : n + 1])
            with atomic(files[n]) as temporary:
                np.save(temporary, made[0])
        self._tell(f"{len(missing)} of {len(files)} maps by {method.__name__}", start)
        return np.stack([np.load(file) for file in files])

    def curves(
        self, by_map: dict[str, np.ndarray], galaxies: pd.DataFrame, steps: int
    ) -> pd.DataFrame:
        """Insertion and deletion curves of many maps, see `lib.explain.faithfulness.curves`.

        `by_map` has the name of each map and ndarray (n, crop, crop). There are also the columns
        model, map and galaxy_id.
        """
        images, targets = self._asked(galaxies)
        ids, found = galaxies["galaxy_id"].to_numpy(), []
        for name, values in by_map.items():
            made = self._kept(
                "curves",
                (values, images, targets, steps),
                lambda values=values: faithfulness.curves(
                    self.probabilities, images, values, targets, steps
                ),
            )
            found.append(made.assign(model=self.name, map=name, galaxy_id=ids[made["galaxy"]]))
        return pd.concat(found, ignore_index=True)

    def sanity(
        self, methods: dict[str, Callable], galaxies: pd.DataFrame, calibration_ids,
        depths: int, seed: int,
    ) -> pd.DataFrame:  # fmt: skip
        """Maps against those of ever more random networks, see `lib.explain.sanity.cascade`.

        `methods` has names and methods; BatchNorm statistics are recalibrated on the galaxies
        `calibration_ids`. There is also the column model.
        """
        images, targets = self._asked(galaxies)
        calibration = self.inputs(calibration_ids)
        codes = [(name, meaning(method)) for name, method in methods.items()]
        return self._kept(
            "sanity",
            (codes, images, targets, calibration, depths, seed),
            lambda: sanity.cascade(
                self.explainer, methods, images, targets, calibration, depths=depths, seed=seed
            ),
        ).assign(model=self.name)

    def _asked(self, galaxies: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Images, and the index of each predicted class in the network's output."""
        targets = pd.Index(self.run.classes).get_indexer(galaxies["predicted"])
        return self.inputs(galaxies["galaxy_id"]), targets

    def _key(self, *parts) -> str:
        return fingerprint(self.run.settings["weights_sha256"], closure_hash(__file__), *parts)

    def _kept(self, kind: str, parts: tuple, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        start, file = time.perf_counter(), self.cache / kind / f"{self._key(*parts)}.parquet"
        missing = not file.exists()
        if missing:
            with atomic(file) as temporary:
                make().to_parquet(temporary)
        self._tell(f"{int(missing)} of 1 table of {kind}", start)
        return pd.read_parquet(file)

    def _tell(self, made: str, start: float) -> None:
        print(f"{self.name}: {made} made in {time.perf_counter() - start:.1f} s")


def open_subject(run_dir: str, step: str, images: str) -> Subject:
    """Load a training run's network and open the images it was trained on.

    Parameters
    ----------
    run_dir : str
        Folder of the run.
    step, images : str
        Folders of the training step and of the pre-processing step below it.

    Raises
    ------
    InputError
        If a folder, network or image is missing, the network cannot be explained, or it gives
        other probabilities than those that were scored.
    """
    run = training.load_run(step_folder(run_dir, step))
    folder = step_folder(run_dir, images)
    cache = open_cache(folder, run.settings["crop"], run.settings["colour"])
    widest = max(
        (int(path.stem.rsplit("_")[-1]) for path in folder.glob("images_rgb_*.npy")), default=0
    )
    subject = Subject(
        name=run.settings["role"],
        run=run,
        images=cache,
        wide=open_cache(folder, widest) if widest else cache,
        explainer=Explainer(run.model),
        cache=resolve(run_dir) / "cache" / "explained",
    )
    some = run.predictions.head(8)
    now = subject.probabilities(subject.inputs(some["galaxy_id"]))
    apart = np.abs(some[probability_columns(run.classes)].to_numpy() - now).max()
    if not apart < 0.01:
        raise InputError(
            f"{subject.name}: saved network and predictions.parquet give other probabilities (they "
            f"differ by up to {apart:.3f}): run the training notebook again"
        )
    return subject
