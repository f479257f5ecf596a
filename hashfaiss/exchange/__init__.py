"""Codes for other people's databases, and codes from anywhere: `export` and `import_codes`.

Each format has a small module here, and its place in `FORMATS`. Needs the extra `exchange`, or of that the packages of
one format alone.
"""

from hashfaiss.exchange.exporting import Exported, export
from hashfaiss.exchange.formats import FORMATS
from hashfaiss.exchange.importing import import_codes

__all__ = ["FORMATS", "Exported", "export", "import_codes"]
