"""``medrega-pacs engine``: asked, described, checked and compiled on the shipped model."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from dicom_node.cli import main
from engine.model.tokenizer import Tokenizer
from engine.runtime import load_runtime, model_path

Run = Callable[..., tuple[int, str, str]]
LOCATE = "Please locate <ref>disc</ref> in this X-ray image."


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``medrega-pacs engine`` in an empty folder; gives exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rich.console.Console.is_terminal", False)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medrega-pacs", "engine", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return command


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3)).astype(np.uint8)).save(path)
    return path


def test_an_answer_as_json_holds_its_tokens(run: Run, picture: Path) -> None:
    status, out, _ = run("ask", "--image", str(picture), "--question", LOCATE, "--json", "--max-new-tokens", "5")
    said = json.loads(out)
    assert status == 0
    assert said.keys() == {"answer", "token_ids", "prompt_token_ids"}
    tokenizer = Tokenizer(model_path("phantom"))
    assert tokenizer.decode(said["token_ids"]) == said["answer"]
    assert len(said["token_ids"]) <= 5
    prompt = tokenizer.decode(said["prompt_token_ids"])
    assert prompt.endswith(f"</img>\n{LOCATE}<|im_end|><|im_start|>assistant\n")
    assert prompt.count("<IMG_CONTEXT>") == 25
    with Image.open(picture) as image:
        expected = load_runtime("onnx", "phantom").ask(np.asarray(image), f"<image>\n{LOCATE}", max_new_tokens=5)
    assert tuple(said["token_ids"]) == expected.token_ids


def test_the_image_stands_where_the_question_says(run: Run, picture: Path) -> None:
    question = f"You are a helpful medical assistant. <image>\n{LOCATE}"
    _, out, _ = run("ask", "--image", str(picture), "--question", question, "--json", "--max-new-tokens", "1")
    prompt = Tokenizer(model_path("phantom")).decode(json.loads(out)["prompt_token_ids"])
    assert "user\nYou are a helpful medical assistant. <img>" in prompt


@pytest.mark.parametrize("suffix", ["png", "jpg", "dcm"])
def test_png_jpeg_and_dicom_are_read(run: Run, tmp_path: Path, picture: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    if suffix == "dcm":
        shutil.copy(str(get_testdata_file("CT_small.dcm")), path)
    else:
        with Image.open(picture) as image:
            image.save(path)
    status, out, err = run("ask", "--image", str(path), "--question", LOCATE, "--max-new-tokens", "3")
    assert (status, err) == (0, "")
    assert out.strip()


def test_onnx_and_torch_answer_alike(run: Run, picture: Path) -> None:
    said = [
        run(
            "ask",
            "--image",
            str(picture),
            "--question",
            LOCATE,
            "--json",
            "--runtime",
            runtime,
            "--max-new-tokens",
            "8",
        )
        for runtime in ("onnx", "torch")
    ]
    assert said[0] == said[1]


def test_a_folder_without_an_export_is_asked_by_torch(run: Run, picture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(model_path("phantom"), folder, ignore=shutil.ignore_patterns("*.onnx"))
    asked = ("ask", "--image", str(picture), "--question", LOCATE, "--json", "--max-new-tokens", "5")
    by_torch = run(*asked, "--model", str(folder))
    assert by_torch == run(*asked)  # the latter by ONNX Runtime
    assert run("export", str(folder))[0] == 0
    assert run(*asked, "--model", str(folder), "--runtime", "onnx") == by_torch


def test_what_cannot_be_asked_says_why(run: Run, tmp_path: Path, picture: Path) -> None:
    broken, deep, text = tmp_path / "broken.png", tmp_path / "deep.png", tmp_path / "text.txt"
    broken.write_bytes(picture.read_bytes()[:200])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    text.write_text("no image")
    for path, words in ((broken, "cannot be decoded"), (deep, "more than 8 bits"), (text, "DICOM")):
        status, out, err = run("ask", "--image", str(path), "--question", LOCATE)
        assert (status, out) == (1, "")
        assert words in err
    status, _, err = run("ask", "--image", str(picture), "--question", "<image> <image>")
    assert status == 2
    assert "<image> once" in err
    for runtime in ("onnx", "torch"):
        question = "What is <IMG_CONTEXT>?"
        status, _, err = run("ask", "--image", str(picture), "--question", question, "--runtime", runtime)
        assert status == 1
        assert "<IMG_CONTEXT>" in err
    status, _, err = run("ask", "--image", str(picture), "--question", LOCATE, "--model", "nowhere")
    assert status == 1
    assert "there is no model at nowhere" in err
    ct = str(get_testdata_file("CT_small.dcm"))
    status, _, err = run("ask", "--image", ct, "--question", LOCATE, "--frame", "2")
    assert status == 1
    assert "no frame 2" in err


def test_info_describes_the_shipped_model(run: Run) -> None:
    status, out, _ = run("info", "--json")
    said = json.loads(out)
    assert status == 0
    assert said["kind"] == "checkpoint"
    assert said["commissioning"] is True
    assert said["memory_bfloat16"].endswith("MB")
    assert "weights digest" in run("info")[1]


def test_check_names_what_is_wrong(run: Run, tmp_path: Path) -> None:
    assert run("check")[:2] == (0, "phantom is complete\n")
    folder = tmp_path / "model"
    shutil.copytree(model_path("phantom"), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    status, _, err = run("check", str(folder))
    assert status == 1
    assert "model.safetensors is broken" in err


def test_compile_says_what_it_did_and_check_finds_damage(run: Run, picture: Path, tmp_path: Path) -> None:
    status, out, err = run("compile", "--checkpoint", "phantom", "--out", "compiled", "--until", "split")
    assert status == 0, err
    assert "split done, digest " in out
    assert "split" in err  # progress
    assert run("check", "compiled")[0] == 0
    said = json.loads(run("info", "compiled", "--json")[1])
    assert (said["kind"], said["steps"], said["tensor_parallel"]) == ("compile", "split", 1)
    asked = ("ask", "--image", str(picture), "--question", LOCATE, "--json", "--max-new-tokens", "5")
    assert run(*asked, "--model", "compiled") == run(*asked)  # without an engine, from its parts
    (tmp_path / "compiled" / "language" / "config.json").write_text("{}")
    status, _, err = run("check", "compiled")
    assert status == 1
    assert "language/config.json is missing or was changed" in err


def test_wrong_usage_is_told_from_failure(run: Run) -> None:
    assert run("compile", "--checkpoint", "phantom", "--out", "compiled", "--dtype", "int8")[0] == 2
    status, _, err = run("compile", "--checkpoint", "phantom", "--out", "compiled", "--tensor-parallel", "8")
    assert status == 1
    assert "4 attention heads cannot be shared by 8 ranks" in err
    assert run("compile", "--checkpoint", "nowhere", "--out", "compiled")[0] == 1


def test_a_model_is_evaluated_and_a_run_goes_on(run: Run, picture: Path, tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": f"<image>\n{LOCATE}"},
        {"from": "gpt", "value": "<ref>disc</ref><box>[[1, 2, 3, 4]]</box>"},
    ]
    lines = [json.dumps({"id": n, "image": picture.name, "conversations": turns}) for n in range(2)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    arguments = ("evaluate", "data.jsonl", "--images", str(tmp_path), "--max-new-tokens", "4")
    status, out, _ = run(*arguments, "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["samples"], found["answered"], found["scores"][0]["group"]) == (2, 2, "detection, en")
    assert len(found["scores"][0]["figures"]["IoU"]) == 3
    kept = (tmp_path / "data.answers.jsonl").read_bytes()
    status, out, _ = run(*arguments)
    assert status == 0
    assert "Acc@0.50" in out
    assert (tmp_path / "data.answers.jsonl").read_bytes() == kept  # nothing was asked again
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    status, _, err = run(*arguments, "--answers", "other.jsonl")
    assert status == 1
    assert "sample 1 was not asked" in err


def test_an_interrupted_evaluation_says_how_to_go_on(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"from": "human", "value": LOCATE}, {"from": "gpt", "value": "no"}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"id": 1, "image": picture.name, "conversations": turns}))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.evaluation.ask_all", interrupt)
    status, _, err = run("evaluate", "data.jsonl", "--images", str(tmp_path))
    assert status == 1
    assert "the same command goes on" in err


def test_a_model_is_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.bench._COPIED", 1 << 22)
    status, out, _ = run("bench", "--tokens", "32", "--batch", "1", "--json")
    figures = json.loads(out)
    assert status == 0
    assert figures["decoding"][0]["tokens_per_second"] > 0
    assert figures["bandwidth"] > 1e8
    status, out, err = run("bench", "--batch", "one")
    assert status == 2
    assert "--batch" in err
