"""Where the package of the fixture `library` lies."""

from pathlib import Path

FOLDER = str(Path(__file__).parent)
