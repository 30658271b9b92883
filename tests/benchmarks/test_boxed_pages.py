"""Readers of word boxes, on files made here and on the real ones where they are."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from benchmarks.boxed_pages import LAYOUTS, boxed_pages, split_line
from shirg.errors import UserError


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (100, 50), 255).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_line_is_cut_at_its_spaces_by_characters():
    # ten characters of 2 px each: "ab", two spaces, "cdef", a space, "g"
    words = [("ab", (10, 5, 14, 9)), ("cdef", (18, 5, 26, 9)), ("g", (28, 5, 30, 9))]
    assert split_line((10, 5, 30, 9), " ab  cdef g ") == words
    assert split_line((0, 0, 9, 3), "  ") == []


def test_equal_words_of_a_line_are_told_apart():
    assert split_line((0, 0, 5, 1), "a a a") == [("a", (left, 0, left + 1, 1)) for left in (0, 2, 4)]


def test_sroie_rows_may_hold_commas_and_slanted_boxes(tmp_path):
    picture(tmp_path / "sroie/img/X1.jpg")
    write(tmp_path / "sroie/box/X1.csv", "10,4,30,5,30,9,10,8,1,200\n\n0,0,4,0,4,4,0,4,\n")
    page = boxed_pages(tmp_path, "sroie")[0]
    assert (
        page.name == "sroie/X1"
        and page.boxes == ((10, 4, 30, 9),)
        and page.texts == ("1,200",)
        and page.image.mode == "RGB"
    )


def test_icdar_leaves_out_what_nobody_could_read(tmp_path):
    picture(tmp_path / "icdar2015_incidental/Imgs/img_3.jpg")
    rows = "\ufeff1,1,9,1,9,5,1,5,Exit\n1,1,9,1,9,5,1,5,###\n"
    write(tmp_path / "icdar2015_incidental/Gts/gt_img_3.txt", rows)
    page = boxed_pages(tmp_path, "icdar2015")[0]
    assert page.name == "icdar2015/img_3" and page.boxes == ((1, 1, 9, 5),) and page.texts == ("Exit",)


def test_funsd_words(tmp_path):
    words = [{"box": [1, 2, 3, 4], "text": "To:"}, {"box": [5, 2, 6, 4], "text": " "}]
    picture(tmp_path / "funsd/training_data/images/7.png")
    write(tmp_path / "funsd/training_data/annotations/7.json", json.dumps({"form": [{"words": words}]}))
    page = boxed_pages(tmp_path, "funsd")[0]
    assert page.boxes == ((1, 2, 3, 4),) and page.texts == ("To:",)


def test_lines_of_a_form_end_where_the_next_word_is_lower_or_begins_again_at_the_left(tmp_path):
    boxes = {"Date": (0, 0, 20, 10), "of": (24, 2, 30, 11), "birth": (0, 12, 20, 22), "May": (2, 13, 9, 22)}
    words = [{"box": box, "text": text} for text, box in boxes.items()]
    picture(tmp_path / "funsd/training_data/images/7.png")
    write(tmp_path / "funsd/training_data/annotations/7.json", json.dumps({"form": [{"words": words}]}))
    page = boxed_pages(tmp_path, "funsd", lines=True)[0]
    assert page.texts == ("Date of", "birth May") and page.boxes == ((0, 0, 30, 11), (0, 12, 20, 22))


def test_a_line_of_a_receipt_is_whole_with_its_spaces_as_one(tmp_path):
    picture(tmp_path / "sroie/img/X1.jpg")
    write(tmp_path / "sroie/box/X1.csv", "10,4,30,4,30,9,10,9,TOTAL  RM\n0,0,4,0,4,4,0,4, \n")
    page = boxed_pages(tmp_path, "sroie", lines=True)[0]
    assert page.texts == ("TOTAL RM",) and page.boxes == ((10, 4, 30, 9),)


def test_opencqa_lines_become_words(tmp_path):
    picture(tmp_path / "opencqa/chart_images/5.png")
    write(tmp_path / "opencqa/bboxes/5.json", json.dumps([{"sentence": "ab cd ", "bounding_box": [0, 0, 50, 9]}]))
    page = boxed_pages(tmp_path, "opencqa")[0]
    assert page.boxes == ((0, 0, 20, 9), (30, 0, 50, 9)) and page.texts == ("ab", "cd")


def test_a_smaller_limit_gives_the_first_pages_of_a_larger_one(tmp_path):
    for number in range(6):
        picture(tmp_path / f"sroie/img/{number}.jpg")
        write(tmp_path / f"sroie/box/{number}.csv", "0,0,9,0,9,9,0,9,word" if number else "")
    names = [page.name for page in boxed_pages(tmp_path, "sroie")]
    assert len(names) == 5 and "sroie/0" not in names  # a page without words is left out
    assert [page.name for page in boxed_pages(tmp_path, "sroie", 3)] == names[:3]
    assert [page.name for page in boxed_pages(tmp_path, "sroie", seed=1)] != names


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="no page with word boxes"):
        boxed_pages(tmp_path, "sroie")
    with pytest.raises(UserError, match="'docvqa' has no reader of word boxes; there are sroie"):
        boxed_pages(tmp_path, "docvqa")


@pytest.mark.parametrize("name", LAYOUTS)
def test_real_pages_have_their_words_inside(shared, name):
    for page in boxed_pages(shared / "data", name, limit=3):
        middles = [((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in page.boxes]
        inside = [0 <= x <= page.image.width and 0 <= y <= page.image.height for x, y in middles]
        assert sum(inside) >= 0.98 * len(inside)
