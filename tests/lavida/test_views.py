from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from shirg.errors import UserError
from shirg.images import to_rgb
from shirg.lavida import views
from shirg.lavida.config import GRID_PINPOINTS


def expected_views(reference, name: str) -> torch.Tensor:
    table = np.load(reference.folder / "views" / "lut.npy")
    paths = sorted(reference.folder.glob(f"views/{name}_?.png"))
    return torch.from_numpy(np.stack([table[np.asarray(Image.open(path))] for path in paths])).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", ["square", "land5", "wide", "tall", "small"])
def test_anyres_views_are_the_official_ones(reference, name):
    cut = views.anyres_views(to_rgb(reference.image(name)), GRID_PINPOINTS, 384)
    torch.testing.assert_close(views.to_pixels(cut), expected_views(reference, f"anyres_{name}"), rtol=0, atol=0)


@pytest.mark.parametrize("fit", ["pad", "square"])
@pytest.mark.parametrize("name", ["wide", "tall"])
def test_square_views_are_the_official_ones(reference, name, fit):
    view = views.square_view(reference.image(name), 384, "pad" if fit == "pad" else "stretch")
    torch.testing.assert_close(views.to_pixels([view]), expected_views(reference, f"{fit}_{name}"), rtol=0, atol=0)


def test_geometry_is_the_official_one(reference):
    geometry = reference.json("anyres_geometry")
    pinpoints = tuple(map(tuple, geometry["pinpoints"]))
    assert pinpoints == GRID_PINPOINTS
    assert len(geometry["entries"]) == 79
    for entry in geometry["entries"]:
        size = tuple(entry["size_wh"])
        rows, columns = views.tile_grid(size, pinpoints, 384)
        assert list(views.best_resolution(size, pinpoints)) == entry["best_resolution_wh"]
        assert [columns, rows] == entry["grid_wh"]
        assert 1 + rows * columns == entry["num_views"]


def test_pixels_run_from_minus_one_to_one():
    pixels = views.to_pixels([Image.new("RGB", (2, 1), (0, 255, 128))])
    assert pixels.dtype == torch.float32
    assert pixels[0, :, 0, 1].tolist() == pytest.approx([-1.0, 1.0, 128 / 127.5 - 1], abs=1e-6)


def test_padding_keeps_the_shape():
    view = views.square_view(Image.new("RGB", (40, 20), "white"), 40, "pad")
    assert view.getpixel((20, 2)) == views.PAD_COLOUR
    assert view.getpixel((20, 20)) == (255, 255, 255)


def test_an_unknown_fit_is_refused():
    with pytest.raises(UserError, match="'crop'"):
        views.square_view(Image.new("RGB", (3, 3)), 3, "crop")
