"""Speed and memory, as ratios measured in one run: ``make bench``.

Prints one table per section and writes them, with the machine and the commit, as JSON. Nothing is
asserted about time: machines differ, and so does what else they do. ``--size tiny`` runs every line
in seconds on a stand-in network; a test does so. What the numbers led to is in README.md beside.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import cost  # noqa: E402
import keras_predict  # noqa: E402

from lib import images, networks, paths, selection, training  # noqa: E402
from lib.networks import weights  # noqa: E402
from lib.workflow import receipts  # noqa: E402

GALAXIES, SEEDS, EPOCHS, BATCH, CLASSES = 1122, 5, 50, 16, 6
"""The paper's down-sampled problem (Secs. 3.5, 4.2), which ratios are told for."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    name: str
    galaxies: int
    """Galaxies of a timed epoch, of decoding and of prediction."""
    crop: int
    """Side of their images in pixels; the paper's is 224."""
    copies: tuple[int, ...]
    """Augmented copies per galaxy whose features are kept; the last is the epochs of a run."""
    seeds: int
    lengths: tuple[int, int]
    """Images of the two predictions whose memory is compared."""
    steps: int
    """Steps of the fine-tuned network that are timed."""
    predicted: int
    """Images of each timed prediction, JPEG to probability."""
    profile: str
    """Profile of the chain that is timed."""
    until: str | None
    """Its last step, which is the one timed by itself too; None for all, and notebook 03."""


FIRST = "01_sample_selection"
SIZES = {
    "full": Size("full", 160, 224, (1, 5, 10, 50), 5, (10_000, 100_000), 6, 1024, "mock", None),
    "quick": Size("quick", 96, 224, (1, 5, 10), 2, (1_000, 10_000), 3, 256, "smoke", None),
    "tiny": Size("tiny", 45, 32, (1, 2), 2, (50, 120), 2, 60, "smoke", FIRST),
}


@dataclass(frozen=True)
class Survey:
    """Galaxies to measure with."""

    table: pd.DataFrame
    """`galaxy_id`, `label`, `split`, `image_path`"""
    data_dir: Path
    image_size: int
    run: Path | None
    """A finished run of profile mock, whose network and images are used; None in size tiny."""

    def some(self, n: int) -> pd.DataFrame:
        """About `n` galaxies, the same share of each class and split."""
        share = min(1, n / len(self.table))
        return self.table.groupby(["label", "split"]).sample(frac=share, random_state=0)


def open_survey(size: Size, folder: Path) -> Survey:
    """The embedded survey, or for size tiny a few made-up images and a stand-in network."""
    import exported

    if size.name == "tiny":
        weights.build = exported.backbone
        table = exported.write_images(folder / "survey")
        return Survey(table, folder / "survey", exported.SIZE, None)
    run = paths.step_folder("runs/mock", "03_train_b0").parent
    sample = pd.read_parquet(run / "01_sample_selection" / "sample.parquet")
    table = selection.assign(sample).merge(sample[["galaxy_id", "image_path"]], on="galaxy_id")
    table = table[table["split"].isin(["train", "validation"])].reset_index(drop=True)
    return Survey(table, run / "00_mock_survey", 424, run)


@contextmanager
def timer(times: dict, name: str):
    """Keep the seconds that a block takes."""
    start = time.perf_counter()
    yield
    times[name] = time.perf_counter() - start


def spent(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call.

    Where other programs keep the cores busy, the second says more than the first.
    """
    wall, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - processor


def best_of(function: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Shortest time of a few calls after one that is not counted: wall and processor seconds."""
    return best_of_each({"": lambda: spent(function)}, repeats)[""]


def best_of_each(
    measures: dict[str, Callable[[], tuple[float, float]]], repeats: int = 3
) -> dict[str, tuple[float, float]]:
    """Shortest of some times each, measured by turns, so that other programs slow down all alike.

    The first of each, wall and processor seconds, is not counted.
    """
    best = {name: (np.inf, np.inf) for name in measures}
    for measure in measures.values():
        measure()
    for _ in range(repeats):
        for name, measure in measures.items():
            best[name] = tuple(map(min, best[name], measure()))
    return best


@dataclass(frozen=True)
class Role:
    """A network of the paper, as the benchmarks build it: random weights, which are as fast."""

    backbone: str
    crop: int
    colour: str
    trainable: bool

    def build(self) -> tuple[keras.Model, keras.Sequential, keras.Model]:
        """Backbone to pooled features, the head, and both as one; the last two compiled."""
        body, _ = networks.backbone(self.backbone, self.crop, self.colour, "none")
        body.trainable = self.trainable
        pooled = keras.layers.GlobalAveragePooling2D(name="features")(body.output)
        head = new_head(pooled.shape[1], CLASSES)
        whole = networks.InferenceMode(body.input, head(pooled))
        compiled(whole)
        return keras.Model(body.input, pooled), head, whole

    def open(self, survey: Survey, part: pd.DataFrame, folder: Path) -> images.Copies:
        """Images of some galaxies, as this network takes them."""
        images.write_cache(part, survey.data_dir, folder, crop=self.crop, size=survey.image_size)
        return images.Copies(images.open_cache(folder, self.crop, self.colour), seed=0)


def roles(size: Size) -> dict[str, Role]:
    """The two roles as the paper has them, but small ones where there is little time."""
    v2m = {"full": ("EfficientNetV2M", 224), "quick": ("EfficientNetV2B0", 96)}
    backbone, crop = v2m.get(size.name, ("EfficientNetV2B0", size.crop))
    return {
        "B0": Role("EfficientNetB0", size.crop, "grey", False),
        "V2M": Role(backbone, crop, "rgb", True),
    }


def new_head(features: int, classes: int) -> keras.Sequential:
    """The paper's head, compiled."""
    layers = [
        keras.Input((features,)),
        keras.layers.Dense(1024, activation="relu"),
        keras.layers.Dense(classes, activation="softmax"),
    ]
    return compiled(keras.Sequential(layers))


def compiled(model: keras.Model) -> keras.Model:
    """A model that can be trained as the paper's."""
    model.compile(keras.optimizers.Adam(1e-4), "categorical_crossentropy", metrics=["accuracy"])
    return model


class EpochEnds(keras.callbacks.Callback):
    """Wall and processor time at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_epoch_end(self, epoch, logs=None):
        self.times.append((time.perf_counter(), time.process_time()))


def one_hot(n: int) -> np.ndarray:
    """Targets that mean nothing."""
    return np.eye(CLASSES, dtype=np.float32)[np.arange(n) % CLASSES]


def frozen_backbone(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """Cached features against the published loop, which runs the backbone in every epoch.

    Times of an epoch, of the head's epoch and of the backbone are measured on a part of the
    galaxies; the totals for five seeds are extrapolated from them, in proportion to galaxies,
    epochs, seeds and copies.
    """
    part = survey.some(size.galaxies)
    role = roles(size)["B0"]
    copies = role.open(survey, part, folder / "frozen")
    encoder, head, whole = role.build()
    store = training.FeatureStore(encoder, copies, folder / "features")
    store.prepare(part["galaxy_id"], 1)
    train, validation = (part.loc[part["split"] == s, "galaxy_id"] for s in ("train", "validation"))

    def epoch(model: keras.Model, get: Callable, epochs: int) -> tuple[float, float]:
        data = training.Batches(get, train, one_hot(len(train)), BATCH, seed=0, copies=1)
        judged = training.Batches(get, validation, one_hot(len(validation)))
        ends = EpochEnds()
        model.fit(
            data,
            validation_data=judged,
            epochs=epochs,
            callbacks=[ends],
            shuffle=False,
            verbose=0,
        )
        return tuple(np.median(np.diff(ends.times, axis=0), axis=0))

    backbone = forward_function(encoder)
    rows = np.arange(len(copies.cache.arrays))

    def forward() -> None:
        for start in range(0, len(rows), 64):
            backbone(copies.of_rows(rows[start : start + 64], 0))

    best = best_of_each(
        {
            "published": partial(epoch, whole, copies.get, 3),
            "head": partial(epoch, head, store.get, 8),
            "backbone": partial(best_of, forward, 1),  # warm again after a training
        }
    )
    published, head, once = (float(wall) for wall, _ in best.values())
    rate = len(rows) / once
    scale = GALAXIES / len(part)
    loop = SEEDS * EPOCHS * published * scale
    trained = 0.7 * GALAXIES
    results = []
    for number in (*size.copies[:-1], EPOCHS):
        cached = (number * trained + GALAXIES) / rate + SEEDS * EPOCHS * head * scale
        results.append(
            {
                "copies K": number,
                "published loop [s], extrapolated": loop,
                "cached features [s], extrapolated": cached,
                "ratio": loop / cached,
                "measured on galaxies": len(part),
                "epoch, published [s]": published,
                "epoch, head [s]": head,
                "backbone [images/s]": rate,
            }
        )
    return results


def forward_function(model):
    """A model in inference mode as a graph, without XLA."""
    import tensorflow as tf

    return tf.function(lambda pixels: model(pixels, training=False), reduce_retracing=True)


def frozen_accuracy(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """Validation accuracy and time against K, really trained, on the run's images and network.

    K = epochs gives the published augmentation. The interval is of the paired difference to it:
    right or wrong of each validation galaxy, mean over the seeds, bootstrapped over galaxies.
    """
    role, source = roles(size)["B0"], "none"
    if survey.run:
        settings = json.loads((survey.run / "03_train_b0" / "model.json").read_text())
        role = Role(settings["backbone"], settings["crop"], settings["colour"], False)
        source = settings["weights"]
        cache = images.open_cache(survey.run / "02_preprocessing", role.crop, role.colour)
        copies = images.Copies(cache, seed=0)
    else:
        copies = role.open(survey, survey.table, folder / "k")
    body, _ = networks.backbone(role.backbone, role.crop, role.colour, source)
    pooled = keras.layers.GlobalAveragePooling2D()(body.output)
    encoder = keras.Model(body.input, pooled)
    classes, epochs = training.check_assignment(survey.table), size.copies[-1]
    right, seconds = {}, {}
    for number in size.copies:
        right[number] = []
        store = training.FeatureStore(encoder, copies, folder / f"k_features_{number}")
        with timer(seconds, number):
            for seed in range(size.seeds):
                keras.utils.set_random_seed(seed)
                settings = {
                    **{"role": "B0", "protocol": "published", "classes": classes, "seed": seed},
                    **{"epochs": epochs, "batch_size": BATCH, "copies": number},
                }
                head = new_head(pooled.shape[1], len(classes))
                run = training.train(head, store.get, survey.table, folder, settings)
                part = run.part("validation")
                right[number].append((part["predicted"] == part["label"]).to_numpy(float))
    reference = np.mean(right[epochs], axis=0)
    results = []
    for number in size.copies:
        mean = np.mean(right[number], axis=0)
        low, high = bootstrap_mean(mean - reference)
        results.append(
            {
                "copies K": number,
                "seconds, measured": seconds[number],
                "trainings": size.seeds,
                "epochs": epochs,
                "validation galaxies": len(mean),
                "accuracy": mean.mean(),
                "minus K = epochs": (mean - reference).mean(),
                "low": low,
                "high": high,
            }
        )
    return results


def bootstrap_mean(values: np.ndarray, repeats: int = 4000) -> tuple[float, float]:
    """95 % percentile interval of a mean over galaxies."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (repeats, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def inputs(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """Decoding against the cache, and how long a training waits for its input."""
    part = survey.some(size.galaxies)
    times: dict[str, float] = {}
    with timer(times, "decoding"):
        cache, _ = images.write_cache(
            part, survey.data_dir, folder / "inputs", crop=size.crop, size=survey.image_size
        )
    order = np.random.default_rng(0).permutation(len(cache.arrays))
    batches = [np.sort(order[i : i + BATCH]) for i in range(0, len(order), BATCH)]
    reading, _ = best_of(lambda: [cache.arrays[batch] for batch in batches])
    results = [
        {"what": "decode, crop and write", "images/s": len(part) / times["decoding"], "ratio": 1},
        {
            "what": "read from the cache",
            "images/s": len(order) / reading,
            "ratio": times["decoding"] / reading,
        },
    ]
    for name, role in roles(size).items():
        _, _, model = role.build()
        data = batches_of(role.open(survey, part, folder / f"wait_{name}"), size, augmented=True)
        waits = {"input": 0.0, "network": 0.0}
        for number in range(size.steps + 1):
            start = time.perf_counter()
            batch = data[number]
            middle = time.perf_counter()
            model.train_on_batch(*batch)
            if number:  # the first step traces the graph
                waits["input"] += middle - start
                waits["network"] += time.perf_counter() - middle
        share = waits["input"] / sum(waits.values())
        rate = size.steps * BATCH / sum(waits.values())
        results.append(
            {"what": f"training of {name}", "images/s": rate, "share waiting for input": share}
        )
    return results


def batches_of(copies: images.Copies, size: Size, augmented: bool) -> training.Batches:
    """Batches for some steps and two more."""
    galaxies = np.resize(copies.cache.index["galaxy_id"], (size.steps + 2) * BATCH)
    seed = 0 if augmented else None
    return training.Batches(copies.get, galaxies, one_hot(len(galaxies)), BATCH, seed=seed)


def all_of(data: training.Batches) -> None:
    """Make every batch."""
    for number in range(len(data)):
        data[number]


def fine_tuning(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """Where the time of the V2 role goes; rates of each part alone, in images per second."""
    import tensorflow as tf

    role = roles(size)["V2M"]
    _, _, model = role.build()
    forward = forward_function(model)
    copies = role.open(survey, survey.some(size.galaxies), folder / "fine")
    data = batches_of(copies, size, augmented=True)
    batch = data[0]
    total, _ = best_of(lambda: model.train_on_batch(*batch), size.steps)
    ahead, _ = best_of(lambda: forward(batch[0]).numpy(), size.steps)
    n = (size.steps + 2) * BATCH
    plain = best_of(partial(all_of, batches_of(copies, size, augmented=False)), 2)[0] / n
    augmented = best_of(partial(all_of, data), 2)[0] / n
    parts = {
        "forward": ahead / BATCH,
        "backward and update": (total - ahead) / BATCH,
        "reading": plain,
        "augmentation": augmented - plain,
    }
    results = [
        {
            "part": name,
            "ms per image": 1000 * seconds,
            "relative to a step": seconds * BATCH / total,
            "network": f"{role.backbone}, {role.crop} px",
        }
        for name, seconds in parts.items()
    ]
    compiled = tf.function(forward.python_function, jit_compile=True)
    xla, _ = best_of(lambda: compiled(batch[0]).numpy(), 1)
    results.append(
        {
            "part": "forward with XLA",
            "ms per image": 1000 * xla / BATCH,
            "relative to a step": xla / total,
            "network": f"{role.backbone}, {role.crop} px",
        }
    )
    return results


def prediction(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """From JPEG to probabilities: Keras' predict against lib.predict, and the parts of both."""
    import exported

    from lib.images import Lupton
    from lib.predict import engine, package
    from lib.predict import survey as predicted
    from lib.predict.inputs import read_image

    part = survey.some(size.galaxies)
    exported.make_run(
        folder / "run", survey.data_dir, part, survey.image_size, size.crop, binning=1
    )
    made = package.export(folder / "run" / "03_train_b0", folder / "model")
    part = part.iloc[np.resize(np.arange(len(part)), size.predicted)]
    part = part.assign(galaxy_id=np.arange(len(part)))  # one image again and again
    part[["galaxy_id", "image_path"]].to_parquet(folder / "list.parquet")
    plan_path = predicted.plan(
        made.folder, folder / "list.parquet", folder / "predicted", root=survey.data_dir
    )
    plan = predicted.read_plan(plan_path)
    listed = pd.read_parquet(folder / "list.parquet")
    settings = made.card["preprocessing"]
    files = [survey.data_dir / path for path in listed["image_path"]]

    started: dict[str, float] = {}
    with timer(started, "start-up of lib.predict: open the network"):
        onnx = engine.OnnxEngine(made.folder / package.ONNX)
    graph = engine.KerasEngine(made.folder / package.KERAS)
    few = files[: size.galaxies]

    def decoded() -> np.ndarray:
        crops = np.stack([read_image(file, settings, Lupton()) for file in few])
        return images.network_input(crops, "grey")

    pixels = decoded()
    wide = [pixels[i : i + 64] for i in range(0, len(pixels), 64)]
    batches = [pixels[i : i + onnx.batch] for i in range(0, len(pixels), onnx.batch)]

    def threads() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(onnx.run, batches))

    ours = "lib.predict, JPEG to probability"
    with ExitStack() as stack:
        rivals = {
            f"Keras predict, {choice}": stack.enter_context(
                keras_predict.Process(made.folder / package.KERAS, files, settings, onednn)
            )
            for choice, onednn in keras_predict.CHOICES.items()
        }
        whole = best_of_each(
            {name: rival.predict for name, rival in rivals.items()}
            | {ours: partial(spent, lambda: predicted._predict(listed, made, plan, None))}
        )
    started |= {f"start-up of {name}": rival.start_up[0] for name, rival in rivals.items()}
    parts = {
        "decoding alone, one thread": decoded,
        "tf.function alone": lambda: [graph.run(batch) for batch in wide],
        "ONNX Runtime alone, a thread per core": threads,
        "ONNX Runtime alone, one thread": lambda: [onnx.run(batch) for batch in batches],
    }
    alone = best_of_each({name: partial(spent, call) for name, call in parts.items()})
    reference = [seconds / len(files) for seconds in next(iter(whole.values()))]
    rows = [
        {
            "what": name,
            "images/s": n / wall,
            "ratio": reference[0] / (wall / n),
            "processor ms/image": 1000 * processor / n,
            "ratio of processor time": reference[1] / (processor / n),
            "images": n,
            "crop [px]": size.crop,
        }
        for n, measured in ((len(files), whole), (len(few), alone))
        for name, (wall, processor) in measured.items()
    ]
    return rows + [{"what": name, "seconds": seconds} for name, seconds in started.items()]


def lite(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """EfficientNet-Lite, pixels to probabilities: TensorFlow and ONNX Runtime."""
    from lib.predict import engine

    calls = {}
    for name in ("EfficientNetLite0", "EfficientNetLite2"):
        body, _ = networks.backbone(name, size.crop, "rgb", "none")
        pooled = keras.layers.GlobalAveragePooling2D(name="features")(body.output)
        output = keras.layers.Dense(CLASSES, activation="softmax")(pooled)
        kept, written = folder / f"{name}.keras", folder / f"{name}.onnx"
        keras.Model(body.input, output).save(kept)
        engine.write_onnx(kept, written)
        calls[f"{name}, tf.function"] = (engine.KerasEngine(kept).run, 64)
        onnx = engine.OnnxEngine(written)
        calls[f"{name}, ONNX Runtime, a thread per core"] = (onnx.run, onnx.batch)
    pixels = np.random.default_rng(0).uniform(0, 255, (size.galaxies, *body.input.shape[1:]))
    pixels = pixels.astype(np.float32)

    def whole(run: Callable, batch: int) -> tuple[float, float]:
        parts = [pixels[i : i + batch] for i in range(0, len(pixels), batch)]
        with ThreadPoolExecutor(os.cpu_count() if batch < 64 else 1) as pool:
            return spent(lambda: list(pool.map(run, parts)))

    best = best_of_each({name: partial(whole, *call) for name, call in calls.items()})
    return [
        {
            "what": name,
            "images/s": len(pixels) / wall,
            "processor ms/image": 1000 * processor / len(pixels),
            "crop [px]": size.crop,
        }
        for name, (wall, processor) in best.items()
    ]


def memory(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """Peak memory of predictions of two lengths: a few small images, named again and again."""
    import exported

    from lib.predict import package

    with stand_in():
        table = exported.make_run(folder / "memory")
    package.export(folder / "memory" / "03_train_b0", folder / "small")
    results = []
    for length in size.lengths:
        names = np.resize(table["image_path"].to_numpy(), length)
        named = pd.DataFrame({"galaxy_id": np.arange(length), "image_path": names})
        named.to_parquet(folder / "names.parquet")
        out = folder / f"memory_{length}"
        code = (
            "from lib.predict import survey\n"
            f"plan = survey.plan({str(folder / 'small')!r}, {str(folder / 'names.parquet')!r}, "
            f"{str(out)!r}, root={str(folder / 'memory')!r}, shard_size=5000)\n"
            "survey.run(plan, log=str)"
        )
        start = time.perf_counter()
        peak = peak_memory(code)
        results.append(
            {
                "images": length,
                "peak memory [MB]": peak,
                "images/s": length / (time.perf_counter() - start),
            }
        )
    return results


@contextmanager
def stand_in():
    """Build networks on the tests' stand-in backbone."""
    import exported

    kept, weights.build = weights.build, exported.backbone
    yield
    weights.build = kept


def peak_memory(code: str) -> float:
    """Largest resident memory of a Python process that runs some code, in MB."""
    # Not getrusage: its maximum outlives exec, and is that of the process which started this one.
    report = (
        "\nprint(next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1]) / 1024


def start_up(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """Processor time of imports beyond that of Python itself, each in a process of its own."""
    modules = ["lib.predict.survey"]
    if size.name != "tiny":
        modules += [
            "lib.training",
            "lib.surveys",
            "lib.selection",
            "lib.evaluation",
            "lib.stellar_mass.catalogue",
        ]
    bare = import_seconds("sys")
    return [{"what": f"import {m}", "seconds": import_seconds(m) - bare} for m in modules]


def import_seconds(module: str) -> float:
    """Processor time of a process that imports a module, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", f"import {module}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def chain(size: Size, survey: Survey, folder: Path) -> list[dict]:
    """The chain from nothing, and one step of it by itself."""
    import conftest

    conftest.copy_checkout(folder)

    def seconds(module: str, *arguments: str) -> float:
        start = time.perf_counter()
        done = conftest.run_module(folder, module, *arguments, "--profile", size.profile)
        if done.returncode:
            raise RuntimeError(f"{' '.join(done.args)} failed:\n{done.stdout}{done.stderr}")
        return time.perf_counter() - start

    whole = seconds("lib.workflow.steps", "chain", *(["--until", size.until] if size.until else []))
    runs = len(list(folder.rglob("receipt.json")))
    step = size.until or "03_train_b0"
    alone = seconds("lib.workflow.steps", "run", step)
    return [
        {"what": f"chain of {runs} runs, profile {size.profile}", "seconds": whole},
        {"what": f"{step}, profile {size.profile}, by itself", "seconds": alone},
    ]


SECTIONS = {
    function.__name__: function
    for function in (
        frozen_backbone,
        frozen_accuracy,
        inputs,
        fine_tuning,
        prediction,
        lite,
        memory,
        start_up,
        chain,
    )
}


def main(argv: list[str] | None = None) -> None:
    """Command line of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, help="some sections; kept nowhere without --out"
    )
    parser.add_argument("--out", type=Path, help=f"{cost.RESULTS.name} beside this file by default")
    arguments = parser.parse_args(argv)
    # What is published comes from one run of everything.
    out = arguments.out or (None if arguments.only else cost.RESULTS)
    size = SIZES[arguments.size]
    report = {"size": size.name, "machine": receipts.machine(), "git": receipts.git_state()}
    report |= {"packages": receipts.package_versions(), "sections": {}}
    with tempfile.TemporaryDirectory() as folder:
        survey = open_survey(size, Path(folder))
        for name in arguments.only or SECTIONS:
            work = Path(folder) / name
            work.mkdir()
            start = time.perf_counter()
            rows = SECTIONS[name](size, survey, work)
            report["sections"][name] = rows
            print(f"\n{SECTIONS[name].__doc__.splitlines()[0]}")
            print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))
            print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    if out:
        with paths.atomic(out) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nwritten: {out}")
    if out == cost.RESULTS:
        cost.write(report)


if __name__ == "__main__":
    main()
