"""The address of the page, checked and taken before a model is loaded, and who may come there."""

import ipaddress
import secrets
import socket

SHORTEST_TOKEN = 8


def chosen_token(host: str, token: str | None) -> str | None:
    """The token that visitors must know; `new` makes one up. A page that strangers could open is refused.

    Raises:
        ValueError: naming `--host` or `--token`.
    """
    if token == "new":
        return secrets.token_urlsafe(18)
    if token is None and not is_loopback(host):
        raise ValueError(
            f"`--host` ({host}) can be reached by other machines: add `--token new`, or a `--token` of your own; or "
            "leave `--host` at 127.0.0.1."
        )
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ValueError(f"`--token` has {len(token)} characters: give at least {SHORTEST_TOKEN}, or `new`.")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        ValueError: naming `--host` or `--port`, where it cannot be had.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"`--port` ({port}) must lie between 0 (any free one) and 65535.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror:
        raise ValueError(f"`--host` ({host}) is no address of this machine: give 127.0.0.1 or 0.0.0.0.") from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ValueError(
            f"`--host` ({host}) with `--port` ({port}) cannot be had ({error.strerror}): name another port, or 0 for "
            "any free one."
        ) from None
    return listening
