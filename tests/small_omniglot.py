"""A small synthetic copy of Omniglot's files."""

import io
import zipfile

import numpy as np
from PIL import Image

from metalens.data.catalog.omniglot_images import ZIPS

BACKGROUND, EVALUATION = ZIPS

# Number, alphabet and zip file: 8 characters of the Vinyals train split, 3 of val, 3 of test.
CHARACTERS = (
    [(number, "Latin", BACKGROUND) for number in range(683, 691)]
    + [(number, "Hebrew", BACKGROUND) for number in range(466, 469)]
    + [(number, "ULOG", EVALUATION) for number in range(1598, 1601)]
)
PARTIAL = "Found 14 of Omniglot's 1623 characters"


def member(number, drawer, alphabet="Latin"):
    return f"images/{alphabet}/character{number % 100:02}/{number:04}_{drawer:02}.png"


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def drawing(number, drawer):
    """Draw a light page whose first column's ink tells the character, and its second's the drawer."""
    page = np.full((28, 28), 255, dtype=np.uint8)
    page[: 2 + number % 16, 0] = 0
    page[:drawer, 1] = 0
    return png(page)


def write_zips(folder, change=lambda members, name: None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ZIPS:
        members = {
            member(number, drawer, alphabet): drawing(number, drawer)
            for number, alphabet, home in CHARACTERS
            if home == name
            for drawer in range(1, 21)
        }
        change(members, name)
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path, content in reversed(members.items()):  # No order may be relied on.
                archive.writestr(path, content)
    return folder
