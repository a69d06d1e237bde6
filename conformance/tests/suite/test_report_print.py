"""The report on paper: nothing folded away, nothing beyond the edge of the sheet. By a browser, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conformance.grades import Grade
from conformance.report import Sources, document, page
from conformance.tests.suite.test_report import KERNEL, checked, output, row

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
FORMATS = [f"weights-static+cache-fp8-{letter}" for letter in "abcdefghijklmnopqrst"]
pytestmark = pytest.mark.skipif(not (BROWSER and shutil.which("pdftotext")), reason="no Chromium, or no pdftotext")


def wide() -> str:
    """A page with a matrix of twenty formats, as no terminal and no sheet upright shows by itself."""
    made = document(Sources(checked(row(0, output(grade=Grade.C, required=Grade.C)))))
    (kernel,) = made["kernels"]
    (matrix,) = kernel["matrices"]
    matrix["formats"] = FORMATS
    matrix["rows"][0]["cells"] = [matrix["rows"][0]["cells"][0]] * len(FORMATS)
    return page(made)


def printed(text: str, folder: Path) -> str:
    """The words of the page on paper with their places, as pdftotext tells them."""
    source, sheet = folder / "page.html", folder / "page.pdf"
    source.write_text(text)
    words = ["--headless", "--no-sandbox", "--no-pdf-header-footer", f"--print-to-pdf={sheet}", source.as_uri()]
    subprocess.run([BROWSER, *words, f"--user-data-dir={folder}"], check=True, capture_output=True, timeout=120)
    told = subprocess.run(["pdftotext", "-bbox", str(sheet), "-"], check=True, capture_output=True, text=True)
    return told.stdout


def beyond(places: str) -> list[str]:
    """Words that do not end on their sheet."""
    found = []
    width = 0.0
    for line in places.splitlines():
        if sheet := re.search(r'<page width="([\d.]+)"', line):
            width = float(sheet[1])
        elif (word := re.search(r'xMax="([\d.]+)".*?>(.*)</word>', line)) and float(word[1]) > width:
            found.append(word[2])
    return found


def test_folded_parts_are_printed_and_nothing_is_cut_off(tmp_path: Path) -> None:
    places = printed(wide(), tmp_path)
    assert beyond(places) == []
    assert all(places.count(f">{label}</word>") == 1 for label in FORMATS)
    # In the folded tables of options and of claims.
    assert all(f">{word}</word>" in places for word in ("quantization", "promises"))


def test_a_page_without_the_rules_for_paper_is_caught(tmp_path: Path) -> None:
    """Looks of the page on a screen, with headings that lie: cut off, and folded."""
    screen = re.sub(r"@media print \{.*?\n\}", "", wide(), flags=re.DOTALL).replace('class="wide"', "")
    places = printed(screen, tmp_path)
    assert beyond(places) or not all(f">{label}</word>" in places for label in FORMATS)
    assert ">promises</word>" not in places


def test_the_kernel_of_the_page_has_options_to_fold() -> None:
    assert f'id="{KERNEL}"' in wide()
    assert "<details><summary>Grade reached by option" in wide()
