"""Prompts are the model's input format: each is composed letter by letter as its authors published it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine.errors import PlanError
from engine.phantom import questions
from engine.plan import load_plans
from engine.prompts import IMAGE, Prompts

BOX_WORDS = (
    "The region is represented in the form of bounding box, [x1, y1, x2, y2], with integers ranging from 0 to 999. "
    "These values correspond to the top left x, top left y, bottom right x, and bottom right y. "
)
FORM_WORDS = (
    "For each object, please utilize this format to represent the region with its bounding box: "
    '"<ref>object</ref><box>[[x1, y1, x2, y2]]</box>". '
)

# The eleven published inference examples, whole, and how they are asked here.
PUBLISHED = [
    (
        "You are a helpful medical assistant. You are required to answer the question based on the medical image. "
        "<image>\nWhat does this image show? Answer the question using a single word or phrase.",
        ("vqa", "en", {"question": "What does this image show?"}),
    ),
    (
        "You are a helpful medical assistant. You are required to answer the question based on the medical image. "
        "<image>\nWhat is present? Answer the question using a single word or phrase.",
        ("vqa", "en", {"question": "What is present?"}),
    ),
    (
        "你是一个医疗助手，你需要根据医学图像回答问题。<image>\n"
        "图像里包含的区域属于身体哪个部分?请用词或短语回答问题。",
        ("vqa", "zh", {"question": "图像里包含的区域属于身体哪个部分?"}),
    ),
    (
        "你是一个医疗助手，你需要根据医学图像回答问题。<image>\n这张图片的成像方式是什么?请用词或短语回答问题。",
        ("vqa", "zh", {"question": "这张图片的成像方式是什么?"}),
    ),
    (
        "You are a helpful medical assistant. Your task is report generation. You are given a chest x-ray image, and "
        "you are required to generate a medical report consisting of findings and impressions based on the image. "
        "<image>\n",
        ("report", "en", {"an_image": "a chest x-ray image"}),
    ),
    (
        "你是一个医疗助手，你的任务是生成诊断报告。请为这张医学影像撰写诊断报告，需包括影像诊断和影像结论两部分。"
        "影像诊断描述可见信息，影响结论列举最终的诊断结果。<image>\n",
        ("report", "zh", {}),
    ),
    (
        "You are a helpful medical assistant. Your task is disease diagnosis. You are given an OCT image. The possible "
        "diagnoses are:\nnormal\ndrusen\ndiabetic macular edema\nchoroidal neovascularization\n<image>\n"
        "Please diagnose the disease in the OCT image.",
        (
            "classification",
            "en",
            {
                "image": "OCT image",
                "an_image": "an OCT image",
                "labels": ["normal", "drusen", "diabetic macular edema", "choroidal neovascularization"],
            },
        ),
    ),
    (
        "You are a helpful medical assistant. Your task is object recognition. You are required to recognize the "
        f"object in the given region. {BOX_WORDS}<image>\n"
        "What is <ref>this</ref><box>[[421, 351, 505, 470]]</box> in this CT scan?",
        ("identification", "en", {"image": "CT scan", "box": (421, 351, 505, 470)}),
    ),
    (
        "You are a helpful medical assistant. Your task is object detection. You are required to find all the regions "
        f"of the given objects. {BOX_WORDS}{FORM_WORDS}<image>\n"
        "Please locate <ref>carotid vessel wall</ref> in this MRI scan.",
        ("detection", "en", {"image": "MRI scan", "objects": ["carotid vessel wall"]}),
    ),
    (
        "You are a helpful medical assistant. Your task is report phrase grounding. You are given a chest x-ray image, "
        "and you are required to locate the region and generate a report for the given organ. "
        f"{BOX_WORDS}{FORM_WORDS}<image>\n"
        "Please locate the region and describe the condition of <ref>right lung</ref>, <ref>left lung</ref>",
        ("grounded", "en", {"an_image": "a chest x-ray image", "objects": ["right lung", "left lung"]}),
    ),
    (
        "你是一个医疗助手，你的任务是定位并描述病种。病种区域用边界框的形式表示，[x1, y1, x2, y2]，整数范围从0到999。"
        "这些值分别对应左上角的x，左上角的y，右下角的x和右下角的y。对于每个病种，请使用这种格式用边界框表示区域："
        '"<ref>病种</ref><box>[[x1, y1, x2, y2]]</box>：诊断"。<image>\n请定位并描述这张医学影像中的<ref>胰腺癌</ref>',
        ("grounded", "zh", {"objects": ["胰腺癌"]}),
    ),
]


@pytest.mark.parametrize("example", range(len(PUBLISHED)))
def test_published_example_is_composed_letter_by_letter(example):
    expected, (task, language, words) = PUBLISHED[example]
    prompts = Prompts.shipped()
    prompt = prompts.compose(task, language, **words)
    assert prompt.text == expected
    assert prompts.templates[prompt.template].source == "published"


# The published base prompts that no inference example begins with, by SHA-256 (first 12 digits).
BASES = {
    "vqa_options": "84b8b3e4f9e2",
    "report_observations": "2f160414c38b",
    "report_detailed": "babfbe653d4d",
    "detection_multiple": "258bd9f65ca7",
}


@pytest.mark.parametrize("template", BASES)
def test_published_base_prompt_is_composed_letter_by_letter(template):
    words = {"question": "?", "an_image": "a chest x-ray image", "image": "CT scan", "objects": ["a"]}
    text = Prompts.shipped().compose(template, "en", **words).text.partition("<image>")[0].rstrip()
    assert hashlib.sha256(text.encode()).hexdigest().startswith(BASES[template])


@pytest.mark.parametrize(
    "task", ["vqa", "report", "classification", "organ", "tissue", "identification", "detection", "grounded"]
)
def test_every_task_can_be_asked_in_both_languages(task):
    words = {"question": "?", "labels": ["a", "b"], "box": (1, 2, 3, 4), "objects": ["c"]}
    for language in ("en", "zh"):
        prompt = Prompts.shipped().compose(task, language, image="CT scan", an_image="a CT scan", **words)
        assert prompt.text.count(IMAGE) == 1


def test_regions_found_before_stand_behind_the_image():
    told = {"nodule": [(1, 2, 3, 4), (5, 6, 7, 8)]}
    prompt = Prompts.shipped().compose("vqa", "en", question="Why?", located=told)
    assert prompt.template == "vqa.en+regional"
    assert (
        "<image>\nThe regions of interest are <ref>nodule</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>. Why? Answer"
        in prompt.text
    )


def test_several_boxes_for_one_object_are_told_as_in_training():
    text = Prompts.shipped().compose("detection_multiple", "en", objects=["a", "b"], image="CT scan").text
    assert text.endswith(
        'There might be multiple boxes for one object, in which case the format is like "<ref>object</ref>'
        '<box>[[x1, y1, x2, y2], [x3, y3, x4, y4]]</box>". <image>\n'
        "Please locate <ref>a</ref>, <ref>b</ref> in this CT scan."
    )


def test_every_template_is_marked_and_holds_no_unfilled_braces_but_its_places():
    for template in Prompts.shipped().templates.values():
        assert template.source in ("published", "composed")
        places = {"{objects}", "{box}", "{regions}", "{labels}", "{labels_inline}", "{note}", "{names}"}
        places |= {"{an_image}", "{image}", "{question}"}
        words = template.instruction + template.rest
        for place in places:
            words = words.replace(place, "")
        assert "{" not in words
        assert "}" not in words


def test_the_commissioning_model_is_asked_in_the_words_it_was_trained_on():
    plan = load_plans()["phantom"]
    labels = [item.label for item in plan.objects]
    assert {item.label: item.zh for item in plan.objects} == questions.CHINESE
    image = {"image": plan.image.noun, "an_image": plan.image.with_article}
    for task, language, words in [
        ("detection", "en", {"objects": labels}),
        ("identification", "zh", {"box": (1, 22, 333, 999)}),
        ("grounded", "en", {"objects": ["disc"]}),
        ("report", "en", {}),
    ]:
        trained_on = words if task != "detection" else {"objects": list(questions.CHINESE)}
        asked = Prompts.shipped().compose(task, language, **image, **words).text
        assert asked == questions.question(task, language, **trained_on)


def test_image_can_stand_first_as_in_training():
    first = Prompts.load(image_first=True)
    text = first.compose("report", "zh").text
    assert text.startswith(IMAGE)
    assert text.count(IMAGE) == 1
    assert first.version != Prompts.shipped().version


def test_version_is_the_digest_of_the_words(tmp_path):
    shipped = Path(questions.__file__).parent.parent / "prompts" / "prompts.toml"
    assert len(Prompts.shipped().version) == 64
    changed = tmp_path / "prompts.toml"
    changed.write_text("# a comment changes nothing\n" + shipped.read_text("utf-8"), "utf-8")
    assert Prompts.load(changed).version == Prompts.shipped().version
    changed.write_text(shipped.read_text("utf-8").replace("影响结论", "影像结论"), "utf-8")
    assert Prompts.load(changed).version != Prompts.shipped().version


def test_words_given_are_never_taken_for_places():
    text = Prompts.shipped().compose("vqa", "en", question="Is {image} a place?").text
    assert "Is {image} a place?" in text


@pytest.mark.parametrize(
    ("task", "language", "words", "complaint"),
    [
        ("painting", "en", {}, "no prompt for task 'painting'"),
        ("vqa_options", "zh", {}, "language 'zh'"),
        ("detection", "en", {"image": "CT scan"}, "needs objects"),
        ("identification", "en", {"image": "CT scan"}, "needs box"),
        ("report", "en", {}, "needs an_image"),
    ],
)
def test_prompt_that_cannot_be_composed_is_refused(task, language, words, complaint):
    with pytest.raises(PlanError, match=complaint):
        Prompts.shipped().compose(task, language, **words)


def test_box_beyond_the_scale_is_never_asked_about():
    with pytest.raises(ValueError, match="999"):
        Prompts.shipped().compose("identification", "en", image="CT scan", box=(0, 0, 1000, 5))
