"""The upload of a request: its body, or the file of a form, with limits of bytes and time."""
import asyncio
from functools import partial

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from deploy.model import RequestError

SECONDS = 20  # that a body may take
READ = 4  # times the largest upload: the rest of a longer body is not read


async def read_body_or_file(request: Request, most: int) -> bytes:
    """The body, or the first file of a form, of at most `most` bytes.  Raises RequestError."""
    body = await _read_body(request, most)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        return body

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=1, max_fields=8)
    except (HTTPException, MultiPartException, ValueError, KeyError) as error:
        raise RequestError(400, f"the form cannot be read: {getattr(error, 'detail', None) or error}") from error
    file = next((value for value in form.values() if not isinstance(value, str)), None)
    if file is None:
        raise RequestError(400, "the form holds no file; send one, of any name")
    return await file.read()


async def _read_body(request: Request, most: int) -> bytes:
    """A body that is too long is read, so that its client gets the error, but not kept, and up to `READ` times the limit."""
    too_large = partial(RequestError, 413, f"more than {most / 1e6:g} MB")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > READ * most:
        raise too_large(close=True)
    parts, size = [], 0
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > READ * most:
                    raise too_large(close=True)
                if size <= most:
                    parts.append(part)
    except TimeoutError as error:
        raise RequestError(408, f"the body took longer than {SECONDS} s", close=True) from error
    if size > most:
        raise too_large()
    return b"".join(parts)
