"""The scripted runtime is a Runtime like the others, and loads by name without a model library."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from engine.errors import ModelError, ReadingCancelledError, RuntimeLostError
from engine.runtime import CancelToken, Runtime, load_runtime, model_path
from engine.runtime.scripted import LOST, ScriptedAnswer, ScriptedRuntime

IMAGE = np.zeros((4, 6, 3), np.uint8)


def test_it_is_a_runtime():
    assert isinstance(ScriptedRuntime(), Runtime)


def test_first_key_found_in_the_question_answers():
    runtime = ScriptedRuntime({"disc": "a disc", "is": "other"}, default="none")
    assert runtime.ask(IMAGE, "where is the disc").text == "a disc"
    assert runtime.ask(IMAGE, "what is this").text == "other"
    assert runtime.ask(IMAGE, "report").text == "none"


def test_list_is_given_one_by_one_and_its_last_for_ever():
    runtime = ScriptedRuntime({"q": ["one", "two"]})
    assert [runtime.ask(IMAGE, "q").text for _ in range(4)] == ["one", "two", "two", "two"]


def test_answer_has_tokens_probabilities_and_places():
    answer = ScriptedRuntime({"q": ScriptedAnswer(text="圆盘", logprob=-2.0, finish="length")}).ask(IMAGE, "q")
    assert answer.token_ids == (ord("圆"), ord("盘"))
    assert answer.logprobs == (-2.0, -2.0)
    assert answer.offsets == (0, 1)
    assert answer.finish == "length"


def test_calls_are_counted_from_any_thread():
    runtime = ScriptedRuntime()
    threads = [threading.Thread(target=runtime.ask, args=(IMAGE, f"q{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(call.question for call in runtime.calls) == [f"q{n}" for n in range(8)]
    assert {(call.rows, call.columns) for call in runtime.calls} == {(4, 6)}


def test_delay_ends_when_it_is_cancelled():
    cancel = CancelToken()
    runtime = ScriptedRuntime(delay_seconds=600)
    threading.Timer(0.05, cancel.cancel).start()
    with pytest.raises(ReadingCancelledError):
        runtime.ask(IMAGE, "q", cancel=cancel)


def test_lost_engine_can_be_scripted():
    with pytest.raises(RuntimeLostError):
        ScriptedRuntime({"q": LOST}).ask(IMAGE, "q")


def test_script_is_loaded_from_json(tmp_path):
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"answers": {"q": ["a", {"text": "b", "logprob": -1}]}, "commissioning": False}))
    runtime = load_runtime("scripted", str(path))
    assert runtime.ask(IMAGE, "q").text == "a"
    assert runtime.ask(IMAGE, "q").logprobs == (-1.0,)
    assert not runtime.identity.commissioning
    assert runtime.identity.runtime == "scripted"
    path.write_text(json.dumps({"answers": {"q": "c"}, "commissioning": False}))
    assert load_runtime("scripted", str(path)).identity.weights_digest != runtime.identity.weights_digest


@pytest.mark.parametrize(
    ("content", "complaint"), [("{", "file"), ('{"answrs": {}}', "answrs"), ('{"delay_seconds": -1}', "delay_seconds")]
)
def test_wrong_script_is_refused(tmp_path, content, complaint):
    path = tmp_path / "script.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=complaint):
        load_runtime("scripted", str(path))


@pytest.mark.parametrize(
    ("kind", "model", "complaint"),
    [
        ("quantum", "phantom", "no runtime 'quantum'"),
        ("tensorrt_llm", "phantom", "needs the package 'tensorrt'"),
        ("onnx", "no/such/folder", "no model at"),
        ("scripted", "no/such/file.json", "no model at"),
    ],
)
def test_model_that_cannot_be_loaded_is_refused_with_advice(kind, model, complaint):
    with pytest.raises(ModelError, match=complaint) as caught:
        load_runtime(kind, model)
    assert caught.value.advice


def test_phantom_is_the_checkpoint_that_ships():
    assert model_path("phantom").parts[-3:] == ("engine", "phantom", "checkpoint")


def test_importing_the_engine_loads_no_model_library():
    code = "import engine, sys; print([m for m in ('torch', 'onnxruntime', 'highdicom', 'celery') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
