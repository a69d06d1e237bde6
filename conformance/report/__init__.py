"""What a release manager reads: everything the suite found, as one JSON document and one HTML page."""

from conformance.report.document import document
from conformance.report.form import misfit
from conformance.report.page import page
from conformance.report.parts import Sources

__all__ = ["Sources", "document", "misfit", "page"]
