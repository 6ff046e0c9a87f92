"""The label sets are the model's vocabularies letter by letter, and each label has one clean meaning."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from engine.findings import Finding
from engine.labels import label_sets
from engine.prompts import Prompts
from sr_writer.codes import NO_FINDING, concept_of, normalised

# SHA-256 of the published base prompts, first 12 digits, by label set; where several share one, the first is named.
PUBLISHED = {
    "chexpert": ("chexpert_train_cls", "5d5cdec2d11f"),
    "chestxray14": ("cxr14_train_cls", "8efc7f4be529"),
    "vindr-cxr": ("vindrcxr_train_cls", "f70a7427fc43"),
    "vindr-pcxr": ("vindrpcxr_train_cls", "8eff55c2f9bf"),
    "vindr-mammo": ("vindrmammo_train_cls", "0cda80c0dc8d"),
    "vindr-spinexr": ("vindrspinexr_train_cls", "96a26dbe4b27"),
    "mura": ("mura_train_cls", "e8af1bc12c58"),
    "isic2016": ("isic2016_train_cls", "e7502e2b1645"),
    "isic2017": ("isic2017_train_cls", "435a3816a318"),
    "isic2018": ("isic2018_train_cls", "224b5b0decb2"),
    "isic2019": ("isic2019_train_cls", "bbed4a87ea92"),
    "isic2020": ("isic2020_train_cls", "8a7b2d2b88e9"),
    "pad-ufes": ("padufes_train_cls", "208ed34bfac6"),
    "oct2017": ("oct2017_train_cls", "df2d6a73ea10"),
    "octid": ("octid_train_cls", "cd91d93ae6dc"),
    "rfmid": ("rfmid_train_cls", "f46e57a2bc8d"),
    "brset": ("brest_train_cls", "59f2b4167fec"),
    "organmnist": ("organamnist_train_cls", "1fbe6ef5b430"),
    "pannuke": ("pannuke_train_cls", "e3a996521ea0"),
    "pathcrc": ("pathcrc_norm", "7fa9e48f8d66"),
}


def prompt_of(name: str, language: str = "en") -> str:
    labels = label_sets()[name]
    words = {"image": labels.image, "an_image": labels.an_image, "note": labels.note}
    chosen = [label.word if language == "en" else label.zh for label in labels.labels]
    template = labels.template if labels.template and language == "en" else labels.task
    return Prompts.shipped().compose(template, language, labels=chosen, **words).text


@pytest.mark.parametrize("name", PUBLISHED)
def test_prompt_of_a_label_set_is_the_published_one_letter_by_letter(name):
    base = prompt_of(name).partition("<image>")[0].rstrip(" ")
    assert hashlib.sha256(base.encode()).hexdigest().startswith(PUBLISHED[name][1])


def test_digests_are_those_of_the_published_prompts():
    published = Path(__file__).parents[3] / "shared" / "data" / "medrega_prompts.json"
    if not published.exists():
        pytest.skip("the published prompts are not at hand; their digests are above")
    prompts = json.loads(published.read_text(encoding="utf-8"))["training_base_prompts"]
    for key, digest in PUBLISHED.values():
        assert hashlib.sha256(prompts[key].encode()).hexdigest().startswith(digest)


def test_every_label_set_is_known_and_can_be_asked_in_both_languages():
    assert set(label_sets()) == set(PUBLISHED)
    for name, labels in label_sets().items():
        text = prompt_of(name, "zh")
        assert all(label.zh in text for label in labels.labels)
        assert len({label.word for label in labels.labels}) == len(labels.labels)


def test_every_label_has_one_meaning_and_a_code_and_no_finding_has_none():
    meanings: dict[str, str] = {}
    for labels in label_sets().values():
        for label in labels.labels:
            if not label.concept:
                assert normalised(label.word) in NO_FINDING
                continue
            assert meanings.setdefault(label.concept, label.zh) == label.zh
            found = Finding(label.word, label.concept, {}, {}, None, ())
            assert concept_of(found, "clinical").code.meaning


def test_labels_own_spelling_is_kept_and_the_clean_name_is_right():
    paediatric = label_sets()["vindr-pcxr"]
    assert paediatric.find("brocho-pneumonia").concept == "bronchopneumonia"
    assert paediatric.find("膈疝").word == "Diagphramatic hernia"
    assert label_sets()["vindr-spinexr"].find("Spondylolysthesis").concept == "spondylolisthesis"
    assert paediatric.find("") is None
    assert paediatric.find("mass") is None
