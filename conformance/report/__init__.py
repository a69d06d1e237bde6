"""What a release manager reads: everything the suite found, as one JSON document and one HTML page."""

from conformance.report.document import Sources, document
from conformance.report.page import page

__all__ = ["Sources", "document", "page"]
