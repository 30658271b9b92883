"""Your images and questions as a training set: a file in LLaVA's format.   python examples/own_data.py"""

import json
from pathlib import Path

from PIL import Image, ImageDraw

from shirg import SHIRGDatasetConfig, SHIRGDatasetProcessor
from shirg.data.loader import build_loaders

FOLDER = Path("./shirg_example_output/own")


def main() -> None:
    # ------------------------------------------------------------- images and a list of conversations about them
    (FOLDER / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(8):
        page = Image.new("RGB", (500, 300), "white")
        ImageDraw.Draw(page).text((60, 120), f"Room {number}", fill="black", font_size=48)
        page.save(FOLDER / "images" / f"{number}.png")
        asked = {"from": "human", "value": "<image>\nWhich room is it?"}
        entries.append(
            {
                "id": str(number),
                "image": f"{number}.png",
                "conversations": [asked, {"from": "gpt", "value": f"{number}"}],
            }
        )
    (FOLDER / "rooms.json").write_text(json.dumps(entries), encoding="utf-8")

    # ------------------------------------------------------------- as shirg prepare --ocr-json rooms.json does
    config = SHIRGDatasetConfig(0, len(entries), FOLDER / "prepared", ocr_json=(FOLDER / "rooms.json",), num_workers=0)
    train, _ = build_loaders(SHIRGDatasetProcessor(config).prepare_full_dataset(), batch_size=2)
    record = next(iter(train))[0]
    print(f"{len(train.dataset)} records; {record.source}: {record.question} {record.answers[0]}")


if __name__ == "__main__":
    main()
