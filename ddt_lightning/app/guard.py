"""Who may see the page: this machine alone, or whoever has the token; and what the page may load.

Without a token only requests to a name of this machine are answered, so that a page elsewhere cannot reach the model
through the visitor's browser. With one, a request needs it once as `?token=...`, which becomes a cookie, or as
`Authorization: Bearer ...`. Every answer forbids the browser to load anything from elsewhere.
"""

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "ddt_token"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-ancestors 'self'"
)
"""Content security policy: the page's own files, and what it makes itself."""
REFUSED = """<!doctype html><meta name="viewport" content="width=device-width"><title>Token needed</title>
<body style="font: 16px/1.5 system-ui; max-width: 30rem; margin: 4rem auto; padding: 0 1rem">
<h1 style="font-size: 1.3rem">This page needs its token</h1><p>{}</p>
<form><input name="token" type="password" aria-label="token" autofocus> <button>Open</button></form>"""


class Guard:
    """ASGI middleware in front of the page.

    Args:
        app: the page.
        token: what a visitor has to know; None for a page that only this machine reaches.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if self.token is None:
            host = headers.get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in LOOPBACK:
                return await refuse(scope, receive, send, f"Open it as http://{LOOPBACK[0]}, not as {name[:80]}.")
        elif not self._knows(headers.get("cookie", ""), headers.get("authorization", "")):
            return await self._ask(scope, receive, send)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        await self.app(scope, receive, answer)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the token of the address into a cookie, or say that one is needed."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.pop("token", [""])[0]
        if scope["type"] != "http" or not self._is(given):
            wrong = "The token in the address is not the right one." if given else "Who started it was told the token."
            return await refuse(scope, receive, send, wrong)
        rest = urlencode(query, doseq=True)
        response = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), status_code=303)
        response.set_cookie(COOKIE, given, httponly=True, samesite="strict")
        await response(scope, receive, send)

    def _knows(self, cookie: str, authorization: str) -> bool:
        try:
            found = SimpleCookie(cookie).get(COOKIE)
        except CookieError:
            found = None
        kind, _, bearer = authorization.partition(" ")
        return (found is not None and self._is(found.value)) or (kind.lower() == "bearer" and self._is(bearer.strip()))

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())


async def refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    """Answer 401 in words; close a websocket."""
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    from markupsafe import Markup

    await HTMLResponse(Markup(REFUSED).format(why), status_code=401)(scope, receive, send)
