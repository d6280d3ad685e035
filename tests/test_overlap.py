"""No score is measured on galaxies whose votes the weights at the start have learnt from."""

import hashlib
import json

import keras
import pandas as pd
import pytest
from conftest import ROOT

from lib import selection, surveys
from lib.networks import weights
from lib.schema import InputError

# As profile challenge has it: without counts and purity; and with the authors' spiral threshold.
NO_COUNTS = ["f_features > 0.43", "f_not_edge_on > 0.715", "f_spiral > 0.715", "has_image"]
AUTHORS = ["f_features > 0.43", "f_not_edge_on > 0.715", "f_spiral > 0.619", "has_image"]


def unseen(sample, overlap="refuse"):
    return weights.unseen(sample, "votes", "ArmNet", overlap=overlap)


def sample_of(ids, survey):
    table = pd.DataFrame({"galaxy_id": ids, "label": "2"})
    if survey is not None:
        table.attrs["survey"] = survey
    return table


def test_the_list_that_travels_with_armnet_is_that_of_its_card():
    survey, ids = weights.learnt_from("ArmNet")
    card = json.loads((ROOT / "data" / "weights" / "armnet-3ch.json").read_text())
    assert (survey, len(ids)) == ("challenge", card["trained_on"]["galaxies"])
    joined = ",".join(map(str, sorted(ids)))
    digest = hashlib.sha256(joined.encode()).hexdigest()
    assert digest == card["trained_on"]["identifiers_sha256"]


def test_an_overlap_is_refused_or_left_out():
    _, ids = weights.learnt_from("ArmNet")
    sample = sample_of([*ids[:3], -1, -2], "challenge")
    with pytest.raises(InputError, match=f"3 of 5 galaxies .* {ids[0]}.*overlap = 'leave out'"):
        unseen(sample)
    kept, facts = unseen(sample, "leave out")
    assert list(kept["galaxy_id"]) == [-1, -2]
    assert facts["checked"] and facts["left_out"] == 3 and "3 of 5" in facts["note"]
    assert json.loads(json.dumps(facts)) == facts
    whole, facts = unseen(sample[3:])
    assert len(whole) == 2 and facts["left_out"] == 0 and facts["note"].startswith("None of the 2")


def test_a_table_that_names_no_survey_is_compared_all_the_same():
    _, ids = weights.learnt_from("ArmNet")
    with pytest.raises(InputError, match="1 of 2 galaxies"):
        unseen(sample_of([ids[7], -1], None))
    _, facts = unseen(sample_of([-1], None))
    assert not facts["checked"]


@pytest.mark.parametrize("survey", ["gz2", "gz2_hart16", "another"])
def test_other_names_of_the_same_galaxies_cannot_be_checked_which_is_said(survey):
    sample = sample_of([587738410863493299], survey)
    kept, facts = unseen(sample)
    assert len(kept) == 1 and not facts["checked"]
    assert "not checked" in facts["note"] and "Galaxy Zoo 2 under other names" in facts["note"]


def test_simulated_galaxies_and_weights_without_votes_have_no_overlap():
    _, facts = unseen(sample_of([1], "mock"))
    assert facts["checked"] and "Simulated" in facts["note"]
    _, ids = weights.learnt_from("ArmNet")
    sample = sample_of(ids[:5], "challenge")
    kept, facts = weights.unseen(sample, "mock", "PolarNet")
    assert kept is sample and facts == {}
    with pytest.raises(InputError, match="overlap = 'keep'"):
        unseen(sample, "keep")


def test_weights_are_saved_with_their_list_and_a_changed_list_is_refused(tmp_path):
    pixels = keras.Input((8, 8, 3))
    net = keras.Model(pixels, keras.layers.Conv2D(2, 3, name="top_conv")(pixels), name="net")
    weights.save_bundled(net, {"source": "votes"}, tmp_path, survey="challenge", galaxy_ids=[5, 9])
    survey, ids = weights.learnt_from("Net", 3, tmp_path)
    assert survey == "challenge" and list(ids) == [5, 9]
    kept, _ = weights.unseen(
        sample_of([5, 6], "challenge"), "votes", "Net", overlap="leave out", folder=tmp_path
    )
    assert list(kept["galaxy_id"]) == [6]
    listed = tmp_path / "net-3ch.galaxies.txt"
    listed.write_text("5\n")
    with pytest.raises(InputError, match="not the list that net-3ch.json names"):
        weights.learnt_from("Net", 3, tmp_path)
    listed.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        weights.learnt_from("Net", 3, tmp_path)


@pytest.fixture(scope="module")
def challenge(challenge_sample):
    return surveys.open_survey("challenge", challenge_sample).votes


def chosen(votes, cuts):
    sample, _ = selection.select(votes, cuts)
    sample.attrs["survey"] = "challenge"
    return sample


@pytest.mark.real
def test_armnet_has_learnt_from_what_profile_challenge_leaves_over(challenge):
    """The list made anew from the survey, by the rule of `pretraining.voted_galaxies`."""
    sample = chosen(challenge, NO_COUNTS)
    others = challenge[challenge["has_image"] & ~challenge["galaxy_id"].isin(sample["galaxy_id"])]
    _, ids = weights.learnt_from("ArmNet")
    assert sorted(others["galaxy_id"]) == list(ids)
    kept, facts = unseen(sample)
    assert len(kept) == 1226 and facts["left_out"] == 0


@pytest.mark.real
def test_the_authors_cut_takes_92_galaxies_that_armnet_has_learnt_from(challenge):
    sample = chosen(challenge, AUTHORS)
    with pytest.raises(InputError, match="92 of 1,318 galaxies"):
        unseen(sample)
    kept, facts = unseen(sample, "leave out")
    assert (len(kept), facts["left_out"]) == (1226, 92)
