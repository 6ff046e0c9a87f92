"""Refiners: what they make of drawn shapes whose truth is known, of nothing, of anything at all, and of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engine import load_plans, load_studies, read_study
from engine.errors import ModelError
from engine.findings import Box
from engine.grammar import format_boxes
from engine.masks import Pixels, box_slices, unpack
from engine.phantom import scenes
from engine.phantom.drawing import Insert, coverage, draw
from engine.phantom.studies import truth_boxes
from engine.refine import METHOD, BoxRefiner, load_refiner
from engine.runtime.protocol import Rgb
from engine.runtime.scripted import ScriptedRuntime

THRESHOLD = load_refiner("threshold")


def drawn(insert: Insert, rows: int, columns: int) -> Pixels:
    """The true pixels of an insert: those that its curves cover by half."""
    total = np.zeros((rows, columns), np.float32)
    for part, outline in enumerate(insert.parts):
        covered = coverage(outline, rows, columns, insert.softness)
        if covered is not None:
            down, across, amount = covered
            total[down, across] += -amount if insert.label == "ring" and part == 1 else amount
    return total > 0.5


def region_of(rgb: Rgb, box: Box, mask) -> Pixels:
    """The pixels of a mask, or of the box where there is none."""
    pixels = np.zeros(rgb.shape[:2], bool)
    if mask is None:
        pixels[box_slices(box)] = True
    else:
        pixels[mask.y : mask.y + mask.rows, mask.x : mask.x + mask.columns] = unpack(mask)
    return pixels


def iou(one: Pixels, other: Pixels) -> float:
    return float((one & other).sum() / (one | other).sum())


def phantoms(count: int, rows: int = 420):
    """Draw plates and breasts in turn: the frame, and label, box and true pixels of each insert."""
    for number in range(count):
        rng = np.random.default_rng([4321, number])
        scene = (scenes.breast if number % 2 else scenes.plate)(rng, 0.9)
        columns = round(rows * 0.9)
        grey = (draw(scene, rows, columns) * 255).astype(np.uint8)
        rgb = np.repeat(grey[:, :, None], 3, axis=2)
        boxes = [box for _, box in truth_boxes(scene, rows, columns)]
        yield rgb, [(one.label, box, drawn(one, rows, columns)) for one, box in zip(scene.inserts, boxes, strict=True)]


def test_outlines_by_brightness_are_nearer_the_drawn_shapes_than_their_boxes():
    rng = np.random.default_rng(8)
    boxed, refined, taken = [], [], []
    for rgb, inserts in phantoms(20):
        for _, box, truth in inserts:
            width, height = box[2] - box[0], box[3] - box[1]
            x0, y0, x1, y1 = np.add(box, rng.normal(0, 0.03, 4) * [width, height, width, height])  # as a model's are
            near = (max(x0, 0.0), max(y0, 0.0), min(x1, rgb.shape[1]), min(y1, rgb.shape[0]))
            mask = THRESHOLD.refine(rgb, near)
            boxed.append(iou(region_of(rgb, near, None), truth))
            refined.append(iou(region_of(rgb, near, mask), truth))
            taken.append(mask is not None)
            assert mask is None or mask.method == METHOD
    assert len(boxed) > 30
    assert np.mean(taken) > 0.8
    assert np.mean(refined) > 0.88 > 0.65 > np.mean(boxed)
    assert np.mean(np.subtract(refined, boxed) < -0.05) < 0.05


def test_a_box_of_nothing_stays_a_box():
    rng = np.random.default_rng(9)
    for level, noise in ((128, 0), (20, 3), (128, 12), (128, 40)):
        grey = np.clip(rng.normal(level, noise, (120, 140)), 0, 255).astype(np.uint8)
        rgb = np.repeat(grey[:, :, None], 3, axis=2)
        assert THRESHOLD.refine(rgb, (30.0, 20.0, 90.0, 80.0)) is None
    ramp = np.repeat(np.linspace(0, 255, 140).astype(np.uint8)[None, :, None], 120, axis=0).repeat(3, axis=2)
    assert THRESHOLD.refine(ramp, (30.0, 20.0, 90.0, 80.0)) is None


def test_a_thing_that_goes_on_beyond_the_box_stays_a_box():
    rgb = np.full((200, 200, 3), 40, np.uint8)
    rgb[:, 80:120] = 200
    assert THRESHOLD.refine(rgb, (74.0, 60.0, 126.0, 140.0)) is not None  # a bar through the box
    assert THRESHOLD.refine(rgb, (90.0, 60.0, 180.0, 140.0)) is None  # a side of it


@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    edges=st.tuples(*[st.floats(0, 1)] * 4),
    kind=st.sampled_from(["noise", "flat", "disc"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_any_mask_lies_within_its_box(rows, columns, edges, kind, seed):
    (x0, x1), (y0, y1) = sorted(edges[:2]), sorted(edges[2:])
    box = (x0 * columns, y0 * rows, x1 * columns, y1 * rows)
    if box[0] == box[2] or box[1] == box[3]:
        return
    rng = np.random.default_rng(seed)
    grey = (
        rng.integers(0, 256, (rows, columns), np.uint8) if kind == "noise" else np.full((rows, columns), 90, np.uint8)
    )
    if kind == "disc":
        y, x = np.mgrid[:rows, :columns] + 0.5
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        with np.errstate(over="ignore"):  # a box may be as narrow as a float can say
            near = ((x - middle[0]) / (box[2] - box[0])) ** 2 + ((y - middle[1]) / (box[3] - box[1])) ** 2
        grey[near < 0.2] = 200
    mask = THRESHOLD.refine(np.repeat(grey[:, :, None], 3, axis=2), box)
    if mask is not None:
        down, across = box_slices(box)
        assert down.start <= mask.y < mask.y + mask.rows <= min(down.stop, rows)
        assert across.start <= mask.x < mask.x + mask.columns <= min(across.stop, columns)


def test_large_boxes_are_outlined_to_a_thousandth():
    y, x = np.mgrid[:1900, :1700]
    truth = (x - 840.0) ** 2 / 700**2 + (y - 930.0) ** 2 / 800**2 < 1
    rgb = np.where(truth, np.uint8(190), np.uint8(60))[:, :, None].repeat(3, axis=2)
    box = (140.0, 130.0, 1541.0, 1731.0)
    assert iou(region_of(rgb, box, THRESHOLD.refine(rgb, box)), truth) > 0.99


def test_the_plain_refiner_leaves_every_box():
    assert isinstance(load_refiner("box"), BoxRefiner)
    assert load_refiner("box").refine(np.zeros((9, 9, 3), np.uint8), (0.0, 0.0, 9.0, 9.0)) is None
    assert load_refiner("box") is load_refiner("box")


class BrokenRefiner:
    def refine(self, rgb, box):  # noqa: ARG002
        raise ModelError("decoder.onnx failed on an image (Fail)")


@pytest.fixture
def outlined(make, tmp_path):
    """Read a frame with a disc, found in its box."""
    y, x = np.mgrid[:200, :100]
    disc = (x - 20.0) ** 2 / 9**2 + (y - 60.0) ** 2 / 18**2 < 1
    make(np.where(disc, 900, 300).astype(np.uint16))
    (study,), _ = load_studies([tmp_path])
    answer = format_boxes("disc", [(100, 200, 300, 400)])
    runtime = ScriptedRuntime({"Please locate": answer}, commissioning=True)

    def run(plan_refiner=None, **options):
        plan = load_plans()["phantom"].model_copy(update={"tasks": ("detection",), "refiner": plan_refiner})
        (found,) = read_study(study, plan, runtime, **options).findings
        return found, disc

    return run


def test_the_reader_draws_outlines_as_the_plan_says_else_as_it_is_told(outlined):
    assert outlined()[0].regions[0].mask is None
    for options in (
        {"plan_refiner": "threshold"},
        {"refiner": THRESHOLD},
        {"plan_refiner": "threshold", "refiner": BoxRefiner()},
    ):
        found, disc = outlined(**options)
        (region,) = found.regions
        assert region.mask.method == METHOD
        assert iou(region_of(disc[:, :, None], region.box, region.mask), disc) > 0.9
        assert found.notes == outlined()[0].notes
    assert outlined(plan_refiner="box", refiner=THRESHOLD)[0].regions[0].mask is None


def test_a_refiner_that_fails_loses_no_finding_and_is_told(outlined):
    found, _ = outlined(refiner=BrokenRefiner())
    assert found.regions[0].mask is None
    assert "no outline was drawn: decoder.onnx failed on an image (Fail)" in found.notes


def test_an_unknown_refiner_is_refused_with_those_there_are():
    with pytest.raises(ModelError, match="no refiner 'otsu'") as caught:
        load_refiner("otsu")
    assert "threshold" in caught.value.advice


SIDE = 64
"""Of the square that the tiny model sees; its masks are half as fine."""


def save(path: Path, nodes, inputs, outputs, constants=()) -> None:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def value(name: str, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def tiny_model(folder: Path) -> Path:
    """A real box-prompted model: what is bright and within the two corners; its second mask is the better one."""
    save(
        folder / "encoder.onnx",
        [
            helper.make_node("ReduceMean", ["images"], ["grey"], axes=[1], keepdims=1),
            helper.make_node("AveragePool", ["grey"], ["embedding"], kernel_shape=[2, 2], strides=[2, 2]),
        ],
        [value("images", [1, 3, SIDE, SIDE])],
        [value("embedding", [1, 1, SIDE // 2, SIDE // 2])],
    )
    centres = np.arange(0.5, SIDE // 2) * 2
    nodes, near = [], []
    for axis in (0, 1):
        for corner in (0, 1):
            name = f"{axis}{corner}"
            order = [f"at{axis}", name] if corner == 0 else [name, f"at{axis}"]
            nodes += [
                helper.make_node("Slice", ["corners", f"c{corner}", f"c{corner + 1}", "axis2"], [f"p{name}"]),
                helper.make_node("Slice", [f"p{name}", f"c{axis}", f"c{axis + 1}", "axis3"], [name]),
                helper.make_node("Greater", order, [f"in{name}"]),
                helper.make_node("Cast", [f"in{name}"], [f"near{name}"], to=TensorProto.FLOAT),
            ]
            near.append(f"near{name}")
    nodes += [
        helper.make_node("Mul", near[:2], ["across"]),
        helper.make_node("Mul", near[2:], ["down"]),
        helper.make_node("Mul", ["across", "down"], ["inside"]),
        helper.make_node("Mul", ["inside", "embedding"], ["bright"]),
        helper.make_node("Sub", ["bright", "half"], ["good"]),
        helper.make_node("Add", ["good", "earlier"], ["kept"]),
        helper.make_node("Concat", ["nothing", "kept"], ["masks"], axis=1),
    ]
    half = SIDE // 2
    save(
        folder / "decoder.onnx",
        nodes,
        [
            value("embedding", [1, 1, half, half]),
            value("corners", [1, 1, 2, 2]),
            value("earlier", [1, 1, half, half]),
        ],
        [value("masks", [1, 2, half, half]), value("scores", [1, 2])],
        [
            ("at0", centres.astype(np.float32).reshape(1, 1, 1, half)),
            ("at1", centres.astype(np.float32).reshape(1, 1, half, 1)),
            ("half", np.float32([0.5])),
            ("nothing", np.full((1, 1, half, half), -1, np.float32)),
            ("scores", np.float32([[0.1, 0.9]])),
            *((f"c{n}", np.int64([n])) for n in range(3)),
            ("axis2", np.int64([2])),
            ("axis3", np.int64([3])),
        ],
    )
    path = folder / "tiny.toml"
    path.write_text(
        f'name = "tiny"\nversion = "7"\nsize = {SIDE}\n'
        '[encoder]\nfile = "encoder.onnx"\ninputs = { image = "images" }\n'
        '[decoder]\nfile = "decoder.onnx"\ninputs = { points = "corners", mask = "earlier" }\n'
        'masks = "masks"\nscores = "scores"\n'
    )
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (96, 128), (200, 120)])
def test_a_box_prompted_model_sees_the_frame_and_the_box_and_its_mask_comes_back(tiny, rows, columns):
    rgb = np.full((rows, columns, 3), 30, np.uint8)
    rgb[20:60, 30:70] = 250
    rgb[70:90, 80:110] = 250
    refiner = load_refiner(str(tiny))
    for box, expected in (
        ((24.0, 12.0, 76.0, 64.0), (slice(20, 60), slice(30, 70))),
        ((76.0, 66.0, 114.0, 94.0), (slice(70, 90), slice(80, 110))),
    ):
        mask = refiner.refine(rgb, box)
        truth = np.zeros((rows, columns), bool)
        truth[expected] = True
        found = region_of(rgb, box, mask)
        assert iou(found, truth) > 0.8  # the model sees half of a frame's pixels, and answers a quarter
        assert np.argwhere(found).mean(axis=0) == pytest.approx(np.argwhere(truth).mean(axis=0), abs=1.5)
        assert mask.method.startswith("tiny 7 (sha256 ")
    assert refiner.refine(rgb, (2.0, 2.0, 18.0, 18.0)) is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = 64", "size = 64\nmood = 1", "mood"),
        ("size = 64", "size = 0", "size"),
        ("size = 64", "size = ", "not TOML"),
        ('file = "encoder.onnx"', 'file = "nowhere.onnx"', "cannot be read"),
        ('file = "encoder.onnx"', 'file = "tiny.toml"', "no usable ONNX"),
        ('image = "images"', 'image = "pictures"', "no input 'pictures'"),
        (', mask = "earlier"', "", "wants 'earlier'"),
        ('masks = "masks"', 'masks = "maskes"', "no output 'maskes'"),
        ('points = "corners"', 'mood = "corners"', "mood"),
        ("size = 64", "size = 128", "failed on an image"),
    ],
)
def test_a_model_and_a_description_that_do_not_fit_are_told(tiny, old, new, words):
    path = tiny.with_name("changed.toml")
    path.write_text(tiny.read_text().replace(old, new, 1))
    load_refiner.cache_clear()
    with pytest.raises(ModelError, match=words):
        load_refiner(str(path)).refine(np.zeros((64, 64, 3), np.uint8), (2.0, 2.0, 60.0, 60.0))


def test_a_missing_description_is_told(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_refiner(str(tmp_path / "none.toml"))
