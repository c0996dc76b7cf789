"""Writes the document to standard output: ``python -m keyrest.openapi > docs/openapi.json``."""

from __future__ import annotations

import sys

from keyrest.openapi.document import published

sys.stdout.buffer.write(published())
