"""Who the double is: one workspace, one key that it knows unless told otherwise."""

from __future__ import annotations

from uuid import UUID

TENANT = "7e0a2f5c-0000-4000-8000-000000000001"
NAMESPACE = UUID("7e0a2f5c-0000-4000-8000-000000000002")
KEY = "lsv2_pt_double"
