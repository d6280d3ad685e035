"""Tests of lib.predict, most of them on a small network; the chain's tests run notebook 10."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import exported as made
import keras
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import scipy.special
import scipy.stats
from astropy.io import fits, votable
from astropy.table import Table
from astropy.visualization import make_lupton_rgb
from conftest import ROOT
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from lib import images, networks
from lib.networks.polar_features import feature_network
from lib.predict import catalogue, engine, inputs, package, survey
from lib.predict.__main__ import main
from lib.schema import InputError

P = ["p_1", "p_2", "p_unclear"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks.sources, "build", made.backbone)
        return made.make_run(folder), folder


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    return package.export(run[1] / "03_train_b0", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predicted(run, model, tmp_path_factory):
    """Plan of the finished prediction of all galaxies, in shards of 25."""
    folder = tmp_path_factory.mktemp("predicted")
    run[0][["galaxy_id", "image_path"]].to_parquet(folder / "images.parquet")
    plan = survey.plan(model.folder, folder / "images.parquet", folder, root=run[1], shard_size=25)
    survey.run(plan, log=lambda line: None)
    return plan


def rows_of(plan):
    return pd.read_parquet(plan.parent / "catalogue.parquet")


def keras_outputs(run, pixels):
    trained = keras.models.load_model(run[1] / "03_train_b0" / "model.keras", compile=False)
    both = keras.Model(trained.input, [trained.get_layer("features").output, trained.output])
    return [output.numpy() for output in both(pixels, training=False)]


def test_onnx_gives_what_keras_gives(run, model):
    pixels = np.random.default_rng(1).uniform(0, 255, (40, made.CROP, made.CROP, 1)).astype("f4")
    features, probabilities = keras_outputs(run, pixels)
    for runner in (
        engine.OnnxEngine(model.folder / "model.onnx"),
        engine.KerasEngine(model.folder / "model.keras"),
    ):
        found = runner.run(pixels)
        np.testing.assert_allclose(found[0], features, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1], probabilities, atol=1e-4)
    assert probabilities.std(axis=0).max() > 1e-3  # the network does tell images apart


@pytest.mark.parametrize(
    "name",
    [
        "EfficientNetB0",
        pytest.param("EfficientNetV2B0", marks=pytest.mark.slow),
        "PolarNet",
        "ArmNet",
    ],
)
def test_real_networks_are_exported_alike(name, tmp_path):
    keras.utils.set_random_seed(1)
    if name in ("PolarNet", "ArmNet"):
        body, _ = feature_network(name, seed=1, amplitudes=name == "ArmNet")
        pixels, features = body.input, body.output
    else:
        base, _ = networks.backbone(name, 32, "grey" if name == "EfficientNetB0" else "rgb", "none")
        pixels = base.input
        features = keras.layers.GlobalAveragePooling2D(name="features")(base.output)
    classes = keras.layers.Dense(6, activation="softmax")(features)
    trained = keras.Model(pixels, classes)
    trained.save(tmp_path / "model.keras")
    engine.write_onnx(tmp_path / "model.keras", tmp_path / "model.onnx")
    shape = (8, *trained.input.shape[1:])
    pixels = np.random.default_rng(1).gamma(2, 13, shape).astype("f4")
    features, probabilities = engine.OnnxEngine(tmp_path / "model.onnx").run(pixels)
    inner = keras.Model(trained.input, trained.get_layer("features").output)
    small = 3e-4 if name == "ArmNet" else 1e-5  # logarithms of amplitudes near zero
    np.testing.assert_allclose(features, inner(pixels).numpy(), rtol=1e-3, atol=small)
    np.testing.assert_allclose(probabilities, trained(pixels).numpy(), atol=1e-4)


def test_a_new_mean_and_scale_of_each_channel_come_along(tmp_path):
    """As a grey network has ImageNet's, after its image has been copied into three channels."""
    pixels = keras.Input((16, 16, 1), name="pixels")
    x = keras.layers.Concatenate()([keras.layers.Rescaling(255.0)(pixels)] * 3)
    x = keras.layers.Rescaling(1 / 255, 0.01)(x)
    x = keras.layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05, 0.04, 0.06])(x)
    x = keras.layers.Rescaling([2.0, 3.0, 4.0])(x)
    x = keras.layers.Conv2D(5, 3, strides=2)(keras.layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    features = keras.layers.GlobalAveragePooling2D(name="features")(x)
    trained = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(features))
    trained.save(tmp_path / "model.keras")
    engine.write_onnx(tmp_path / "model.keras", tmp_path / "model.onnx")
    images = np.random.default_rng(1).uniform(0, 1, (4, 16, 16, 1)).astype("f4")
    found, probabilities = engine.OnnxEngine(tmp_path / "model.onnx").run(images)
    expected = keras.Model(pixels, features)(images).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(probabilities, trained(images), atol=1e-5)


def test_export_refuses_a_network_that_differs(run, tmp_path, monkeypatch):
    def shifted(self, pixels):
        features, probabilities = run_onnx(self, pixels)
        return features, probabilities + 2e-4

    run_onnx = engine.OnnxEngine.run
    monkeypatch.setattr(engine.OnnxEngine, "run", shifted)
    with pytest.raises(ValueError, match="differ by up to 2.0e-04"):
        package.export(run[1] / "03_train_b0", tmp_path)
    assert not (tmp_path / "card.json").exists()


def test_card_says_how_to_apply_it(run, model):
    card = json.loads((model.folder / "card.json").read_text())
    settings = json.loads((run[1] / "03_train_b0" / "model.json").read_text())
    assert card["classes"] == list(made.CLASSES)
    assert card["preprocessing"] == {
        "size": made.SIZE,
        "crop": made.CROP,
        "binning": made.BINNING,
        "colour": "grey",
        "stored_colour": "rgb",
    }
    assert card["weights_sha256"] == settings["weights_sha256"]
    assert card["onnx"]["largest_difference"] < package.PARITY
    assert card["receipt"]["step"] == "03_train_b0" and "git" in card["receipt"]
    assert card["training_data"]["galaxies"] == {"train": 42, "validation": 18}
    text = (model.folder / "card.md").read_text()
    for fact in ("96 x 96 px", "64 x 64 px", "(n, 32, 32, 1)", "1, 2, ?", card["weights_sha256"]):
        assert fact in text


def test_temperature_minimises_the_validation_loss(run, model):
    table = pd.read_parquet(run[1] / "03_train_b0" / "predictions.parquet")
    part = table[table["split"] == "validation"]
    label = part["label"].map({"1": 0, "2": 1, "?": 2}).to_numpy()
    logits = np.log(part[P].to_numpy(float))

    def loss(temperature):
        scaled = scipy.special.log_softmax(logits / temperature, axis=1)
        return -scaled[np.arange(len(label)), label].mean()

    best = model.temperature(1)
    assert loss(best) <= min(loss(best * 1.05), loss(best / 1.05)) + 1e-9
    assert model.card["calibration"]["nll_after"] == pytest.approx(loss(best), rel=1e-4)


def test_a_changed_network_is_refused(model, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in model.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert package.load(copy).card == model.card
    with open(copy / "model.onnx", "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="model.onnx is not the file its card names"):
        package.load(copy)
    with pytest.raises(InputError, match="no card.json"):
        package.load(tmp_path)


def test_images_are_prepared_as_for_the_training(run, model):
    cache = images.open_cache(run[1] / "02_preprocessing", made.CROP, "grey")
    pixels = model.card["preprocessing"]
    for i in (0, 1):  # a JPEG and a PNG
        found = inputs.read_image(run[1] / run[0]["image_path"][i], pixels, images.Lupton())
        np.testing.assert_array_equal(found, cache.arrays[i])


def test_catalogue_is_what_keras_and_scipy_give(run, model, predicted):
    rows, table = rows_of(predicted), run[0]
    cache = images.open_cache(run[1] / "02_preprocessing", made.CROP, "grey")
    pixels = images.network_input(cache.arrays[:], "grey")
    features, probabilities = keras_outputs(run, pixels)
    calibrated = scipy.special.softmax(np.log(probabilities) / model.temperature(1), axis=1)
    assert list(rows["galaxy_id"]) == list(table["galaxy_id"])
    np.testing.assert_allclose(rows[P], calibrated, atol=1e-4)
    np.testing.assert_allclose(
        rows["entropy"], scipy.stats.entropy(rows[P], base=2, axis=1), atol=1e-5
    )
    winners = np.array(made.CLASSES)[rows[P].to_numpy().argmax(axis=1)]
    assert (rows["predicted"] == winners).all() and (rows["reason"] == "").all()
    expected = (rows["p_1"] + 2 * rows["p_2"]) / (rows["p_1"] + rows["p_2"])
    np.testing.assert_allclose(rows["arms_expected"], expected, atol=1e-5)

    train = features[table["split"] == "train"]
    standard = (features - train.mean(axis=0)) / train.std(axis=0)
    nearest = NearestNeighbors(n_neighbors=1).fit(standard[table["split"] == "train"])
    distance = nearest.kneighbors(standard)[0][:, 0] / np.sqrt(features.shape[1])
    np.testing.assert_allclose(rows["training_distance"], distance, atol=2e-3)
    held_out = np.sort(distance[table["split"] == "validation"])
    limit = np.percentile(held_out, 99)
    clear = np.abs(distance - limit) > 1e-3
    assert (rows["out_of_distribution"] == (distance > limit))[clear].all()


def test_a_recipe_decides_in_the_catalogue_as_in_the_training(model):
    """A class is named by log p less the offset of its class, before calibration."""
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    listed = pd.DataFrame({"galaxy_id": [1, 2], "image_path": ["a.jpg", "b.jpg"]})
    distance = np.zeros(2, np.float32)
    table = catalogue.table(listed, ["", ""], distance, p, model, 1)
    assert table["predicted"].to_pylist() == ["1", "2"]
    offsets = [float(np.log(0.9)), float(np.log(0.05)), float(np.log(0.05))]
    recipe = replace(model, card={**model.card, "decision": offsets})
    table = catalogue.table(listed, ["", ""], distance, p, recipe, 1)
    assert table["predicted"].to_pylist() == ["2", "2"]
    described = catalogue.layout(recipe.card, "i8").columns
    assert "less the offset of its class" in described["predicted"].description
    described = catalogue.layout(model.card, "i8").columns
    assert described["predicted"].description == "arm class with the highest probability"
    assert "less the offset of its class" in package.describe(recipe.card)
    assert "largest probability is predicted" in package.describe(model.card)


def test_formats_agree_and_say_what_columns_mean(predicted, model):
    folder, rows = predicted.parent, rows_of(predicted)
    for name in catalogue.NAMES:
        table = Table.read(folder / name)
        assert len(table) == len(rows) and table.colnames == list(rows.columns)
        np.testing.assert_array_equal(table["galaxy_id"], rows["galaxy_id"])
        for column in (*P, "entropy", "training_distance"):
            np.testing.assert_array_equal(np.asarray(table[column]), rows[column].to_numpy())
        np.testing.assert_array_equal(table["out_of_distribution"], rows["out_of_distribution"])
        for column in ("image_path", "predicted"):
            assert [str(v) for v in table[column]] == list(rows[column])
        assert str(table["entropy"].unit) == "bit"
    for name in ("catalogue.parquet", "catalogue.vot"):
        table = Table.read(folder / name)
        assert all(column.description for column in table.columns.values())
    with fits.open(folder / "catalogue.fits") as hdus:
        hdus.verify("exception")
        header = hdus[1].header
        assert header["WEIGHTS"] == model.card["weights_sha256"]
        assert header["TCOMM3"] == "calibrated probability of arm class 1"
    assert votable.validate(folder / "catalogue.vot", output=None)
    infos = votable.parse(folder / "catalogue.vot").resources[0].infos
    assert {i.name: i.value for i in infos}["WEIGHTS"] == model.card["weights_sha256"]
    assert Table.read(folder / "catalogue.parquet").meta["VIEWS"] == 1


def test_a_votable_is_written_of_few_galaxies_only(predicted, monkeypatch):
    """It has to fit into memory; Parquet is written shard by shard."""
    votable_file = predicted.parent / "catalogue.vot"
    monkeypatch.setitem(catalogue.LIMITS, "catalogue.vot", 59)
    survey.gather(predicted)
    assert not votable_file.exists() and len(Table.read(predicted.parent / "catalogue.fits")) == 60
    monkeypatch.setitem(catalogue.LIMITS, "catalogue.vot", 60)
    survey.gather(predicted)
    assert len(Table.read(votable_file)) == 60


def test_a_bad_image_costs_one_row(run, model, predicted, tmp_path):
    good = run[0]["image_path"][:5].tolist()
    folder = tmp_path / "bad"
    folder.mkdir()
    picture = Image.open(run[1] / good[1])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture")
    whole = (run[1] / good[0]).read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    picture.resize((50, 50)).save(folder / "small.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    (folder / "text.fits").write_text("no picture")
    bad = ["empty.jpg", "text.png", "half.jpg", "small.png", "cmyk.jpg", "text.fits", "gone.jpg"]
    names = [good[0], *(str(folder / name) for name in bad), *good[1:], "<&>.png"]
    (tmp_path / "list.txt").write_text("# a comment\n\n" + "\n".join(names) + "\n")
    plan = survey.plan(model.folder, tmp_path / "list.txt", tmp_path / "out", root=run[1])
    rows = pd.read_parquet(survey.run(plan, log=lambda line: None)).set_index("image_path")
    assert len(rows) == len(names)
    before = rows_of(predicted).set_index("image_path")
    np.testing.assert_allclose(rows.loc[good, P], before.loc[good, P], atol=1e-6)
    failed = rows[rows["reason"] != ""]
    assert len(failed) == len(bad) + 1
    assert failed[[*P, "entropy", "training_distance"]].isna().all(axis=None)
    assert not failed["out_of_distribution"].any() and (failed["predicted"] == "").all()
    reasons = dict(zip(bad, failed["reason"]))
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["text.png"] == "not a JPEG or PNG image"
    assert "truncated" in reasons["half.jpg"]
    assert reasons["small.png"] == "50 x 50 px, expected 96 x 96 px"
    assert reasons["cmyk.jpg"] == "colour mode CMYK: save it as 8-bit RGB"
    assert "cannot be read as FITS" in reasons["text.fits"]
    assert reasons["gone.jpg"] == "no such file"
    assert list(Table.read(tmp_path / "out" / "catalogue.vot")["image_path"]) == names
    counts = survey.summary(tmp_path / "out" / "catalogue.parquet")
    assert (counts["galaxies"], counts["predicted"]) == (13, 5)
    assert sum(counts["reasons"].values()) == 8


def listed(path, tmp_path):
    n = inputs.write_list(path, tmp_path / "list.parquet", 25)
    table = pd.read_parquet(tmp_path / "list.parquet")
    assert n == len(table)
    return table


def test_lists_of_every_kind_name_the_same_images(run, tmp_path):
    table = run[0][["galaxy_id", "image_path"]]
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    Table.from_pandas(table).write(tmp_path / "a.fits")
    for suffix in ("parquet", "csv", "fits"):
        pd.testing.assert_frame_equal(listed(tmp_path / f"a.{suffix}", tmp_path), table)
    (tmp_path / "a.txt").write_text("\n".join(table["image_path"]))
    in_folder = listed(run[1] / "images", tmp_path)
    assert list(listed(tmp_path / "a.txt", tmp_path)["image_path"]) == list(table["image_path"])
    assert list("images/" + in_folder["image_path"]) == list(table["image_path"])
    assert in_folder["galaxy_id"].tolist()[:2] == ["000", "001"]


def test_a_list_lies_in_row_groups(run, tmp_path):
    """A shard reads its own part."""
    run[0].to_parquet(tmp_path / "a.parquet")
    listed(tmp_path / "a.parquet", tmp_path)
    with pyarrow.parquet.ParquetFile(tmp_path / "list.parquet") as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [25, 25, 10]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["007", "0100", "8"], ["007", "0100", "8"]),
        (["7", "100", "587738410863493299"], [7, 100, 587738410863493299]),
        (["J0101+12", "5", "6"], ["J0101+12", "5", "6"]),
        ([str(2**63 + 1), "1", "2"], [str(2**63 + 1), "1", "2"]),
    ],
)
def test_names_stay_as_they_are_written(ids, kept, tmp_path):
    rows = [f"{name};{k}.jpg" for k, name in enumerate(ids)]
    (tmp_path / "a.csv").write_text("\n".join(["\ufeffgalaxy_id;image_path", *rows]))
    assert listed(tmp_path / "a.csv", tmp_path)["galaxy_id"].tolist() == kept
    Table({"galaxy_id": ids, "image_path": ["a", "b", "c"]}).write(tmp_path / "a.fits")
    assert listed(tmp_path / "a.fits", tmp_path)["galaxy_id"].tolist() == kept


def test_equal_names_in_two_folders_are_told_apart_and_links_end(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg", "b/2.fit"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "b" / "up").symlink_to(tmp_path / "in")
    assert listed(tmp_path / "in", tmp_path)["galaxy_id"].tolist() == [
        "a/1.jpg", "b/1.jpg", "b/2.fit",
    ]  # fmt: skip


def test_a_text_list_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_text("caf\u00e9.jpg\n", encoding="utf-8-sig")
    assert listed(tmp_path / "a.txt", tmp_path)["image_path"].tolist() == ["caf\u00e9.jpg"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "galaxy_id,file\n1,a.jpg\n", "has no column image_path"),
        ("a.csv", "galaxy_id,image_path\n1.5,a.jpg\n", "holds floats"),
        ("a.txt", "\n# nothing\n", "names no cut-out"),
        ("a.doc", "a.jpg\n", "a list of images is a folder or ends in"),
        (
            "a.csv",
            "galaxy_id,image_path\n1,a.jpg\n1,b.jpg\n",
            "1 galaxies more than once .first: 1",
        ),
        ("a.txt", "a.jpg\na.jpg\n", "1 galaxies more than once .first: a.jpg"),
        ("a.csv", "galaxy_id,image_path\n1,\n2,b.jpg\n", "image_path is empty in row 1"),
        ("a.csv", "galaxy_id,image_path\n1,a.jpg\n,b.jpg\n", "galaxy_id is empty in row 2"),
        ("a.txt", "caf\u00e9.jpg\n", "not UTF-8"),
        ("a.csv", "image_path\ncaf\u00e9.jpg\n", "not UTF-8"),
        ("a.parquet", "PAR1", "cannot be read"),
        ("a.fits", "SIMPLE", "cannot be read"),
        ("b/readme", "", "names no cut-out"),
    ],
)
def test_lists_that_cannot_be_used(name, content, message, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=message):
        inputs.write_list(path if path.suffix else path.parent, tmp_path / "list.parquet", 10)
    assert not (tmp_path / "list.parquet").exists()


def test_a_missing_list_and_impossible_settings(model, tmp_path):
    with pytest.raises(InputError, match="neither a folder nor a file"):
        survey.plan(model.folder, tmp_path / "gone", tmp_path / "out")
    with pytest.raises(InputError, match="views = 3"):
        survey.plan(model.folder, tmp_path, tmp_path / "out", views=3)
    with pytest.raises(InputError, match="shard_size = 0"):
        survey.plan(model.folder, tmp_path, tmp_path / "out", shard_size=0)
    with pytest.raises(InputError, match="stretch"):
        images.Lupton(stretch=0)


def test_shards_do_not_change_the_result_and_resume(run, model, predicted, tmp_path):
    source = predicted.parent / "images.parquet"
    plan = survey.plan(model.folder, source, tmp_path, root=run[1], shard_size=7)
    assert survey.read_plan(plan)["shards"] == 9
    survey.predict_shard(plan, 3)
    with pytest.raises(InputError, match="8 of 9 shards are missing .first: 000000.parquet"):
        survey.gather(plan)
    first = survey.shard_path(plan, 3).stat().st_mtime_ns
    written = plan.stat().st_mtime_ns
    assert survey.plan(model.folder, source, tmp_path, root=run[1], shard_size=7) == plan
    assert plan.stat().st_mtime_ns == written
    rows = pd.read_parquet(survey.run(plan, log=lambda line: None))
    assert survey.shard_path(plan, 3).stat().st_mtime_ns == first
    before = rows_of(predicted)
    np.testing.assert_allclose(rows[P], before[P], atol=1e-6)
    assert rows.drop(columns=rows.select_dtypes("float32").columns).equals(
        before.drop(columns=before.select_dtypes("float32").columns)
    )
    survey.plan(model.folder, source, tmp_path, root=run[1], shard_size=7, views=8)
    assert not list((tmp_path / "shards").iterdir())  # predicted as another plan had it
    with pytest.raises(InputError, match="shards 0 to 8, not 9"):
        survey.predict_shard(plan, 9)


def test_views_are_rotations_and_mirrors(run, model, tmp_path):
    pixels = np.random.default_rng(3).uniform(0, 1, (2, made.CROP, made.CROP, 1)).astype("f4")
    seen = {images.dihedral(pixels, view).tobytes() for view in range(8)}
    assert len(seen) == 8
    onnx = engine.OnnxEngine(model.folder / "model.onnx")
    _, single = engine.averaged(onnx, pixels, 1)
    _, averaged = engine.averaged(onnx, pixels, 8)
    assert np.abs(single - averaged).max() > 1e-5
    for view in range(8):
        turned = images.dihedral(pixels, view)
        np.testing.assert_allclose(engine.averaged(onnx, turned, 8)[1], averaged, atol=1e-6)


def test_fits_cubes_go_through_the_lupton_stretch(model, tmp_path):
    rng = np.random.default_rng(5)
    cube = rng.gamma(2, 2, (3, made.SIZE, made.SIZE)).astype("f4")
    fits.PrimaryHDU(cube).writeto(tmp_path / "a.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(cube)]).writeto(tmp_path / "b.fits")
    settings = {"size": made.SIZE, "crop": made.SIZE, "binning": 1, "stored_colour": "rgb"}
    lupton = images.Lupton(stretch=2.0, softening=6.0)
    expected = make_lupton_rgb(cube[2], cube[1], cube[0], stretch=2.0, Q=6.0)
    for name in ("a.fits", "b.fits"):
        found = inputs.read_image(tmp_path / name, settings, lupton)
        np.testing.assert_array_equal(found, np.flipud(expected))
    Image.fromarray(found).save(tmp_path / "a.png")
    as_png = inputs.read_image(tmp_path / "a.png", model.card["preprocessing"], lupton)
    as_fits = inputs.read_image(tmp_path / "a.fits", model.card["preprocessing"], lupton)
    np.testing.assert_array_equal(as_png, as_fits)
    cube[0, 0, 0] = np.nan  # outside the crop it does no harm
    fits.PrimaryHDU(cube).writeto(tmp_path / "corner.fits")
    inner = {**settings, "crop": made.SIZE - 8}
    assert inputs.read_image(tmp_path / "corner.fits", inner, lupton).shape == (88, 88, 3)
    cube[0, 44, 44] = np.nan
    fits.PrimaryHDU(cube).writeto(tmp_path / "nan.fits")
    fits.PrimaryHDU(cube[0]).writeto(tmp_path / "flat.fits")
    fits.BinTableHDU(Table({"x": [1]})).writeto(tmp_path / "table.fits")
    for name, message in (
        ("nan.fits", "not finite"),
        ("flat.fits", r"shape \(96, 96\): bands g, r, i are needed"),
        ("table.fits", "without an image"),
        ("gone.fits", "no such file"),
    ):
        with pytest.raises(images.ImageError, match=message):
            inputs.read_image(tmp_path / name, settings, lupton)


def test_bands_are_found_by_name_and_number(tmp_path):
    """Whatever their order and company, g, r and i give the same picture."""
    u, g, r, i, z = np.random.default_rng(6).gamma(2, 2, (5, 40, 40)).astype("f4")
    expected = make_lupton_rgb(i, r, g, stretch=2.0, Q=8.0)[::-1]
    cubes = {
        "none": ([g, r, i], {}),
        "griz": ([g, r, i, z], {}),
        "ugriz": ([u, g, r, i, z], {}),
        "irg": ([i, r, g], {"BANDS": "i,r,g"}),
        "riz": ([r, g, z, i], {"BAND0": "r", "BAND1": "g", "BAND2": "z", "BAND3": "i"}),
    }
    for name, (planes, cards) in cubes.items():
        path = tmp_path / f"{name}.fits"
        fits.PrimaryHDU(np.stack(planes), fits.Header(cards)).writeto(path)
        found = images.decode(path, 40, lupton=images.Lupton(2.0))
        np.testing.assert_array_equal(found, expected)
    fits.PrimaryHDU(np.stack([g, r, z]), fits.Header({"BANDS": "grz"})).writeto(tmp_path / "l.fits")
    with pytest.raises(images.ImageError, match="bands grz in 3 planes.*learnt from g, r and i"):
        images.decode(tmp_path / "l.fits", 40)


@pytest.mark.parametrize("unit", [1e-9, 0.02, 300.0])
def test_a_fits_image_of_any_unit_is_as_bright_as_the_training(unit, tmp_path):
    y, x = np.mgrid[-50:50, -50:50]
    disc = np.exp(-np.hypot(x, y) / 14) + np.random.default_rng(0).normal(0, 0.01, x.shape)
    fits.PrimaryHDU(unit * np.stack([disc] * 3).astype("f4")).writeto(tmp_path / "a.fits")
    found = images.decode(tmp_path / "a.fits", 100)
    level = np.percentile(found[25:75, 25:75].mean(axis=-1), 99)
    assert abs(level - images.LEVEL) < 4
    if unit < 1:  # a stack in nanomaggies with the stretch of another unit
        with pytest.raises(images.ImageError, match="almost black.*stretch = 100"):
            images.decode(tmp_path / "a.fits", 100, lupton=images.Lupton(100.0))


def test_unlike_images_are_flagged(run, model, predicted, tmp_path):
    """White images are farther than the farthest galaxy; training galaxies are at zero."""
    (tmp_path / "in").mkdir()
    white = np.full((made.SIZE, made.SIZE, 3), 255, np.uint8)
    Image.fromarray(white).save(tmp_path / "in" / "white.png")
    plan = survey.plan(model.folder, tmp_path / "in", tmp_path / "out")
    row = pd.read_parquet(survey.run(plan, log=lambda line: None)).iloc[0]
    rows = rows_of(predicted)
    assert row["out_of_distribution"] and row["distance_percentile"] == 100
    assert row["training_distance"] > rows["training_distance"].max()
    train = (run[0]["split"] == "train").to_numpy()
    assert rows["training_distance"][train].max() < 2e-3
    assert not rows["out_of_distribution"][train].any()


def test_a_feature_that_is_dead_in_training_has_no_say():
    training = np.array([[0.0, 1.0], [2.0, 1.0]], np.float32)
    reference = package._reference(training, training)
    alive, dead = np.array([[2.0, 1.0], [2.0, 9.0]], np.float32)
    np.testing.assert_allclose(reference.distance(np.stack([alive, dead])), 0, atol=1e-3)


def test_percentile_by_hand():
    reference = package.Reference(
        np.zeros(1), np.ones(1), np.zeros((1, 1)), np.array([1.0, 2.0, 3.0, 4.0])
    )
    np.testing.assert_array_equal(reference.percentile(np.array([0.5, 2.5, 9])), [0, 50, 100])


def test_arms_expected_by_hand():
    classes = ("1", "2", "3+4", "5+", "?")
    probabilities = np.array([[0.2, 0.2, 0.0, 0.4, 0.2], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
    found = catalogue.expected_arms(probabilities, classes)
    np.testing.assert_allclose(found, [(0.2 + 0.4 + 2.0) / 0.8, 3.5, np.nan])


def test_prediction_needs_no_tensorflow(predicted):
    code = (
        "import sys; from lib.predict import survey\n"
        f"survey.predict_shard({str(predicted)!r}, 0, threads=1)\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_command_line_names_what_is_wrong(tmp_path, capsys):
    assert main(["shard", str(tmp_path / "plan.json"), "0"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "plan.json is missing" in said
