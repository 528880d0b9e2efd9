"""The stages and the pipeline on real `.nb` models whose answers can be worked out on paper."""

import json
import shutil

import cv2
import numpy as np
import pytest

import artifact
from artifact import ArtifactError
from command import ModelError, UsageError
from lite_runtime.crop import crop_quad
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.pipeline import OcrPipeline, Options
from lite_runtime.recognizer import TextRecognizer
from lite_runtime.result import OcrResult, TextLine


@pytest.fixture(scope="module")
def ocr(colour_models):
    pipeline = OcrPipeline.from_folder(colour_models / "x86")
    yield pipeline
    pipeline.close()


class Constant:
    """An engine that answers with what it was given, whatever it is fed: for answers no network should give."""

    def __init__(self, answer: np.ndarray) -> None:
        self.answer = answer

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.answer

    def close(self) -> None:
        pass


def test_a_page_is_read(ocr, page):
    result = ocr(page)
    assert result.texts == ["rgb", "rb", "rgbg", "rb"]
    assert [line.direction for line in result.lines] == [0, 0, 180, 0]
    assert all(line.score > 0.9 and line.direction_score > 0.9 for line in result.lines)
    bars = [(30, 40, 149, 63), (230, 44, 309, 67), (30, 120, 189, 143), (400, 200, 423, 279)]  # pixel centres
    for line, (x0, y0, x1, y1) in zip(result.lines, bars, strict=True):
        grown = 0.5 * (x1 - x0) * (y1 - y0) / (2 * (x1 - x0 + y1 - y0))  # unclip_ratio .5 stands in the manifest
        left, top, right, bottom = x0 - grown, y0 - grown, x1 + grown, y1 + grown
        expected = [(left, top), (right, top), (right, bottom), (left, bottom)]
        np.testing.assert_allclose(np.array(line.quad), expected, atol=1.5)
    assert list(result.timings_ms) == ["det", "crop", "cls", "rec", "total"]
    *laps, total = result.timings_ms.values()
    assert 0 < sum(laps) <= total + 0.01


def test_without_direction_lines_stay_upside_down(colour_models, page):
    pipeline = OcrPipeline.from_folder(colour_models / "x86", use_angle_cls=False)
    result = pipeline(page)
    assert result.texts[2] == "gbgr" and result.lines[2].direction is None
    assert "cls" not in result.timings_ms
    without = OcrPipeline(pipeline.det, None, pipeline.rec)
    assert without(page).texts == result.texts


def test_a_doubtful_direction_is_not_acted_upon(colour_models, page):
    result = OcrPipeline.from_folder(colour_models / "x86", cls_thresh=1.0)(page)
    assert result.texts[2] == "gbgr" and result.lines[2].direction == 180


def test_weak_lines_are_dropped(colour_models, page):
    options = Options.from_manifests(drop_score=1.0)
    weak = OcrPipeline.from_folder(colour_models / "x86", drop_score=1.0)
    assert weak.options.drop_score == options.drop_score == 1.0
    assert len(weak(page).lines) < 4


def test_nothing_to_read(ocr):
    for image in (
        np.full((200, 300, 3), 255, np.uint8),
        np.full((1, 1, 3), 255, np.uint8),
        np.zeros((1, 20_000), np.uint8) + 255,
    ):
        result = ocr(image)
        assert result.lines == () and result.texts == [] and result.quads.shape == (0, 4, 2)


def test_detector_answers_empty_with_shapes(ocr):
    quads, scores = ocr.det.detect(np.full((100, 100, 3), 255, np.uint8))
    assert quads.shape == (0, 4, 2) and scores.shape == (0,)
    assert ocr.rec.recognize([]) == []
    angles, scores = ocr.cls.classify([])
    assert angles.shape == scores.shape == (0,)


def test_a_tiny_image_keeps_its_scale(ocr, bar):
    """H + W < 64: the image lies on a 32 x 32 canvas; its box must come back in its own pixels."""
    image = np.full((16, 24, 3), 255, np.uint8)
    image[4:12, 4:20] = bar("r")[:8, :16]
    quads, _ = ocr.det.detect(image)
    # The canvas is black, which this detector takes for text as well: the first box is the white image's outline.
    np.testing.assert_allclose(quads[1], [(3, 3), (20, 3), (20, 12), (3, 12)], atol=2)


def test_alpha_and_grey_arrays(ocr, page):
    opaque = np.dstack([page, np.full(page.shape[:2], 255, np.uint8)])
    assert ocr(opaque).texts == ["rgb", "rb", "rgbg", "rb"]
    grey = ocr(cv2.cvtColor(page, cv2.COLOR_BGR2GRAY))
    assert grey.texts == []  # found, but no grey is a letter here
    assert ocr.det.detect(np.repeat(page.min(axis=2)[..., None], 3, axis=2))[0].shape == (4, 4, 2)


def test_prepare_puts_colours_in_order(ocr):
    red = np.full((32, 32, 3), (0, 0, 255), np.uint8)
    assert ocr.det.prepare(red)[0, :, 0, 0].tolist() == [-1, -1, 1]
    manifest = ocr.det.manifest.replace(
        input=artifact.Input((-1, 3, -1, -1), (0.5,) * 3, (0.5,) * 3, color="RGB", multiple_of=32)
    )
    assert TextDetector(ocr.det.engine, manifest).prepare(red)[0, :, 0, 0].tolist() == [1, -1, -1]


def test_an_input_beyond_reason_is_refused(ocr):
    detector = TextDetector(ocr.det.engine, ocr.det.manifest, Options(limit_type="min", limit_side_len=736))
    with pytest.raises(UsageError, match=r"found 147200x736 for an image of 20000x100; lower limit_side_len"):
        detector.detect(np.zeros((100, 20_000, 3), np.uint8))


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([], []),
        ([50], [([0], 96)]),
        ([300, 90, 97, 96], [([1, 3], 96), ([2], 160), ([0], 320)]),  # narrow first, a batch a bucket
        ([90] * 8, [([0, 1, 2, 3, 4, 5], 96), ([6, 7], 96)]),  # at most rec_batch_num
        ([5000, 320], [([1, 0], 320)]),  # squeezed into the last bucket
    ],
)
def test_batches(ocr, widths, expected):
    crops = [np.zeros((32, width, 3), np.uint8) for width in widths]
    assert list(ocr.rec.batches(crops)) == expected


def test_a_line_does_not_depend_on_its_neighbours(ocr, bar):
    crops = [bar(text) for text in ("r", "rg", "rgb", "rgbr", "rgbrg", "rgbrgb", "b r", "g", "gbgbgb")]
    together = ocr.rec.recognize(crops)
    assert [text for text, _ in together] == ["r", "rg", "rgb", "rgbr", "rgbrg", "rgbrgb", "br", "g", "gbgbgb"]
    assert together == [ocr.rec.recognize([crop])[0] for crop in crops]


def test_a_long_line_is_squeezed(ocr, bar):
    text = "rgb" * 4  # 480 x 24 px → 640 px at height 32, squeezed into 320
    assert ocr.rec.recognize([bar(text)])[0][0] == text


def test_classifier_batches_keep_their_order(ocr, bar):
    crops = [np.ascontiguousarray(np.rot90(bar("rgbg"), 2 * (index % 3 == 0))) for index in range(14)]
    angles, scores = ocr.cls.classify(crops)
    assert angles.tolist() == [180 if index % 3 == 0 else 0 for index in range(14)]
    assert scores.shape == (14,) and scores.min() > 0.9
    assert [text for text, _ in ocr.rec.recognize(ocr.cls.upright(crops)[0])] == ["rgbg"] * 14


@pytest.mark.parametrize(
    ("stage", "answer", "words"),
    [
        ("det", np.zeros((1, 1, 8, 8), np.float32), "expected a probability map"),
        ("det", np.full((1, 1, 320, 480), np.nan, np.float32), "with NaN; this is no working DB detector"),
        ("cls", np.zeros((1, 3), np.float32), r"expected probabilities \(1, 2\)"),
        ("cls", np.full((1, 2), np.nan, np.float32), "NaN"),
        ("rec", np.zeros((1, 9, 97), np.float32), r"expected probabilities \(1, T, 5\)"),
        ("rec", np.full((1, 9, 5), np.nan, np.float32), "NaN"),
    ],
)
def test_an_answer_that_is_none(ocr, page, stage, answer, words):
    crops = [np.zeros((32, 50, 3), np.uint8)]
    with pytest.raises(ModelError, match=words):
        if stage == "det":
            TextDetector(Constant(answer), ocr.det.manifest).detect(page)
        elif stage == "cls":
            DirectionClassifier(Constant(answer), ocr.cls.manifest).classify(crops)
        else:
            TextRecognizer(Constant(answer), ocr.rec.manifest, ocr.rec.labels).recognize(crops)


def test_a_stage_takes_models_of_its_task_only(ocr):
    with pytest.raises(ModelError, match=r"expected a detector .*found task cls"):
        TextDetector(ocr.cls.engine, ocr.cls.manifest)
    with pytest.raises(ModelError, match=r"expected a classifier .*found task rec"):
        DirectionClassifier(ocr.rec.engine, ocr.rec.manifest)
    with pytest.raises(ModelError, match=r"expected a recognizer .*task det"):
        TextRecognizer(ocr.det.engine, ocr.det.manifest, [])
    with pytest.raises(ModelError, match="expected a charset of 5 classes, found 3"):
        TextRecognizer(ocr.rec.engine, ocr.rec.manifest, ["", "a", "b"])


def test_options_given_to_the_pipeline_reach_the_stages(colour_models):
    parts = OcrPipeline.from_folder(colour_models / "x86")
    assert parts.det.options.unclip_ratio == 0.5  # the manifest's
    options = Options(box_thresh=0.9)
    OcrPipeline(parts.det, parts.cls, parts.rec, options)
    assert parts.cls is not None
    assert parts.det.options is parts.cls.options is parts.rec.options is options


def test_a_charset_that_does_not_fit(colour_models, tmp_path):
    folder = shutil.copytree(colour_models / "x86", tmp_path / "x86") / "rec"
    (folder / "charset.txt").write_text("r\ng\n")
    manifest = artifact.load(folder, verify=False)
    artifact.write(folder, manifest, "test")
    with pytest.raises(ArtifactError, match=r"expected 5 classes .*found 4"):
        OcrPipeline.from_folder(tmp_path / "x86")


def line(text: str, *quad: tuple[float, float]) -> TextLine:
    return TextLine((quad[0], quad[1], quad[2], quad[3]), text, 0.75, 0, 0.5)


def test_result_to_json():
    result = OcrResult((line("añ", (1, 2), (30, 2), (30, 9), (1, 9)),), {"total": 1.5})
    assert json.loads(json.dumps(result.to_json())) == {
        "lines": [
            {
                "text": "añ",
                "score": 0.75,
                "quad": [[1, 2], [30, 2], [30, 9], [1, 9]],
                "direction": 0,
                "direction_score": 0.5,
            }
        ],
        "timings_ms": {"total": 1.5},
    }
    assert result.quads.tolist() == [[[1, 2], [30, 2], [30, 9], [1, 9]]]


@pytest.mark.parametrize(("size", "drawn"), [((60, 100), (60, 200)), ((60, 121), (120, 121)), ((1, 1), (1, 2))])
def test_draw_puts_the_panel_where_there_is_room(size, drawn):
    image = np.full((*size, 3), 200, np.uint8)
    lines = (line("Hé", (5, 5), (50, 5), (50, 25), (5, 25)), line("", (0, 0), (1, 0), (1, 1), (0, 1)))
    before = image.copy()
    picture = OcrResult(lines, {}).draw(image)
    assert picture.shape == (*drawn, 3) and picture.dtype == np.uint8
    assert np.array_equal(image, before)


def test_draw_marks_what_it_cannot_write():
    quad = ((5.0, 5.0), (90.0, 5.0), (90.0, 55.0), (5.0, 55.0))
    image = np.full((60, 100, 3), 255, np.uint8)
    pictures = [OcrResult((TextLine(quad, text, 1.0),), {}).draw(image) for text in ("?", "é", "e")]
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_crops_of_a_detection_have_the_bar_s_colours(ocr, page):
    quads, _ = ocr.det.detect(page)
    crop = crop_quad(page, quads[0])
    assert crop[crop.shape[0] // 2, crop.shape[1] // 2].tolist() == [0, 255, 0]
