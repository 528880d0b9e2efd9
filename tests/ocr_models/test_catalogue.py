import pytest

import artifact
from command import ModelError
from ocr_models import catalogue


def test_every_card_builds_and_fits_its_charset(tmp_path):
    for name in catalogue.names():
        card = catalogue.card(name)
        folder = tmp_path / name
        folder.mkdir()
        manifest = artifact.write(folder, card.manifest(folder), "test")
        assert artifact.load(folder, kind="checkpoint", task=card.task) == manifest
        assert (card.task == "rec") == (manifest.charset is not None)
        if manifest.charset is not None:
            assert manifest.charset.classes == card.network["classes"]
            assert len(artifact.read_charset(folder, manifest)) == manifest.charset.classes - 2


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ModelError, match=r"det_mv3_db.*found 'det'"):
        catalogue.card("det")


def test_an_unknown_key_in_a_card_is_an_error():
    with pytest.raises(ModelError, match="colour"):
        catalogue._card("x", {"task": "det", "colour": "red"})
    with pytest.raises(ModelError, match="gamma"):
        catalogue._card("x", {"task": "det", "network": {}, "input": {"gamma": 2}})


def test_english_charset_is_ascii_in_paddleocr_s_order():
    entries = artifact.read_charset_file(catalogue.CHARSETS / "en.txt")
    printable = "".join(map(chr, range(33, 127)))
    # Digits to tilde as in ASCII, then what ASCII has before the digits, then the space.
    assert "".join(entries) == printable[15:] + printable[:15] + " "
    labels = artifact.charset_labels(entries, space=True)
    assert len(labels) == 97 and labels[0] == "" and labels[1] == "0" and labels[95] == labels[96] == " "


def test_english_charset_equals_the_published_one(published):
    theirs = (published / "charsets" / "en_dict.txt").read_bytes()
    assert (catalogue.CHARSETS / "en.txt").read_bytes() == theirs
