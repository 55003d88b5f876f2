"""Reads the forms (`multipart/form-data`) that audio is sent in to simulated models (`model_openai.py`)."""

from __future__ import annotations

from email.message import Message

from .model_http import Request


def fields_of(request: Request) -> dict[str, bytes] | str:
    """The fields by name, files as they were sent; or what is wrong with the form."""
    boundary = _parameter(request.header(b"content-type") or "", "content-type", "boundary")
    if not boundary:
        return "The body is multipart/form-data with a boundary"
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    parts = (b"\r\n" + request.body).split(delimiter)
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        return "The form has no end"
    fields: dict[str, bytes] = {}
    for part in parts[1:-1]:
        head, found, content = part.partition(b"\r\n\r\n")
        if not found:
            return "A part of the form has no head"
        for line in head.decode("utf-8", "replace").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "content-disposition" and (field := _parameter(value, "content-disposition", "name")):
                fields[field] = content
    return fields


def _parameter(value: str, header: str, name: str) -> str:
    message = Message()
    message[header] = value.strip()
    found = message.get_param(name, header=header)
    return found if isinstance(found, str) else ""
