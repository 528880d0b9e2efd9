"""The settings file beside a published model: what is read, and what is refused by name."""

import pytest
import yaml

import artifact
from command import ModelError
from export import inference_yml

DET = {
    "Global": {"model_name": "PP-OCRv5_mobile_det"},
    "Hpi": {"backend_configs": {"paddle_infer": {"trt_dynamic_shapes": {"x": [[1, 3, 32, 32]]}}}},
    "PreProcess": {
        "transform_ops": [
            {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}},
            {"DetLabelEncode": None},
            {"DetResizeForTest": {"resize_long": 960}},
            {
                "NormalizeImage": {
                    "mean": [0.485, 0.456, 0.406],
                    "order": "hwc",
                    "scale": "1./255.",
                    "std": [0.2, 0.3, 1],
                }
            },
            {"ToCHWImage": None},
            {"KeepKeys": {"keep_keys": ["image", "shape"]}},
        ]
    },
    "PostProcess": {
        "name": "DBPostProcess",
        "thresh": 0.3,
        "box_thresh": 0.55,
        "unclip_ratio": 1.4,
        "max_candidates": 500,
    },
}
REC = {
    "Global": {"model_name": "some_rec"},
    "PreProcess": {
        "transform_ops": [
            {"DecodeImage": {"channel_first": False, "img_mode": "RGB"}},
            {"MultiLabelEncode": {"gtc_encode": "NRTRLabelEncode"}},
            {"RecResizeImg": {"image_shape": [3, 48, 320]}},
            {"KeepKeys": {"keep_keys": ["image"]}},
        ]
    },
    "PostProcess": {"name": "CTCLabelDecode", "character_dict": ["0", "é", "'", " ", "~"]},
}


def read(tmp_path, record, **changes):
    text = record if isinstance(record, str) else yaml.safe_dump({**record, **changes}, allow_unicode=True)
    (tmp_path / inference_yml.FILE).write_text(text, encoding="utf-8")
    return inference_yml.read(tmp_path)


def with_transform(record, **transform):
    kept = [op for op in record["PreProcess"]["transform_ops"] if set(op) != set(transform)]
    return {"PreProcess": {"transform_ops": [*kept, transform]}}


def test_detector(tmp_path):
    told = read(tmp_path, DET)
    assert (told.name, told.task, told.color, told.limit) == ("PP-OCRv5_mobile_det", "det", "BGR", (960, "max"))
    assert (told.mean, told.std) == ((0.485, 0.456, 0.406), (0.2, 0.3, 1.0))
    assert told.post == {"thresh": 0.3, "box_thresh": 0.55, "unclip_ratio": 1.4, "max_candidates": 500}


def test_recognizer(tmp_path):
    told = read(tmp_path, REC)
    assert (told.task, told.color, told.shape, told.mean) == ("rec", "RGB", (3, 48, 320), (0.5, 0.5, 0.5))
    assert told.entries == ("0", "é", "'", " ", "~")


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        (None, (736, "min")),
        ({"limit_side_len": 640}, (640, "min")),
        ({"limit_side_len": 640, "limit_type": "max"}, (640, "max")),
        ({"resize_long": 960}, (960, "max")),
    ],
)
def test_limits_as_paddleocr_takes_them(tmp_path, given, limit):
    assert read(tmp_path, DET, **with_transform(DET, DetResizeForTest=given)).limit == limit


@pytest.mark.parametrize(
    ("scale", "mean"), [("1./255.", 0.5), (0.00392156862745098, 0.5), (1, 0.5 / 255), ("2/255", 0.25)]
)
def test_scale_is_folded_into_mean_and_std(tmp_path, scale, mean):
    """(x·scale - m) / s is the same as (x/255 - m/f) / (s/f) with f = 255·scale."""
    given = {"mean": [0.5] * 3, "std": [0.5] * 3, "scale": scale}
    told = read(tmp_path, DET, **with_transform(DET, NormalizeImage=given))
    assert told.mean == pytest.approx([mean] * 3, rel=1e-12) and told.std == pytest.approx([mean] * 3, rel=1e-12)


def test_no_file(tmp_path):
    assert inference_yml.read(tmp_path) is None


def test_what_this_project_writes_is_read_back(stages):
    for task in ("det", "cls", "rec"):
        folder = stages(task) / "inference"
        manifest, told = artifact.load(folder), inference_yml.read(folder)
        assert manifest.input and told and (told.task, told.name) == (task, manifest.name)
        assert told.color == manifest.input.color and told.mean == manifest.input.mean
        for name, value in told.post.items():
            assert manifest.post[name] == value
        if task == "det":
            assert told.limit == (manifest.input.limit_side_len, manifest.input.limit_type)
        else:
            assert told.shape and told.shape[1] == manifest.input.shape[2]
        if task == "rec":
            assert told.entries == tuple(artifact.read_charset(folder, manifest))


@pytest.mark.parametrize(
    ("record", "changes", "complaint"),
    [
        (DET, with_transform(DET, ResizeImage={"size": [160, 80]}), "found the transform ResizeImage"),
        (DET, with_transform(DET, DetResizeForTest={"image_shape": [736, 1280]}), "found image_shape"),
        (DET, with_transform(DET, DetResizeForTest={"limit_side_len": 640, "limit_type": "long"}), "found long"),
        (DET, with_transform(DET, DetResizeForTest={"limit_side_len": "640"}), "side length, found 640"),
        (DET, with_transform(DET, DecodeImage={"img_mode": "GRAY"}), "img_mode BGR or RGB, found GRAY"),
        (DET, with_transform(DET, DecodeImage={"img_mode": "BGR", "channel_first": True}), "channel_first false"),
        (DET, with_transform(DET, NormalizeImage={"scale": "open('x')"}), "a number for NormalizeImage.scale"),
        (DET, with_transform(DET, NormalizeImage={"scale": "1/0"}), "a number for NormalizeImage.scale"),
        (DET, with_transform(DET, NormalizeImage={"mean": [0.5]}), "mean with 3 numbers"),
        (DET, with_transform(DET, NormalizeImage={"std": [0, 1, 1]}), "std above 0"),
        (DET, {"PreProcess": {"transform_ops": {"DecodeImage": {}}}}, "a list PreProcess.transform_ops, found dict"),
        (DET, {"PostProcess": {"name": "PSEPostProcess"}}, "found PSEPostProcess"),
        (DET, {"PostProcess": {"name": "DBPostProcess", "box_type": "poly"}}, "found poly"),
        (DET, {"PostProcess": {"name": "DBPostProcess", "thresh": float("nan")}}, "a number for PostProcess.thresh"),
        (DET, {"Extra": 1}, "found Extra"),
        (REC, with_transform(REC, RecResizeImg={"image_shape": [1, 32, 100]}), r"\[3, height, width\]"),
        (REC, {"PostProcess": {"name": "CTCLabelDecode", "character_dict": [1, 2]}}, "texts of one line"),
        (REC, {"PostProcess": {"name": "CTCLabelDecode", "character_dict": ["a\nb"]}}, "texts of one line"),
        ("a: [1", {}, "expected YAML in UTF-8"),
        ("- 1", {}, "expected the file to hold names and values, found list"),
        ("a: !!python/object/apply:os.system [ls]", {}, "expected YAML in UTF-8"),
        ("[" * 5000, {}, "expected YAML in UTF-8"),
    ],
)
def test_refused_in_one_line(tmp_path, record, changes, complaint):
    with pytest.raises(ModelError, match=complaint) as caught:
        read(tmp_path, record, **changes)
    assert "\n" not in str(caught.value) and str(tmp_path / "inference.yml") in str(caught.value)
