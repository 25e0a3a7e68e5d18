"""Where a server of this machine listens."""

import socket


__all__ = ["check_address", "url_of"]

LARGEST_PORT = 65_535


def check_address(host: str, port: int | None) -> None:
    """Raises `OSError` where nothing can listen, before a model is loaded."""
    try:
        if (port or 0) > LARGEST_PORT:
            raise OverflowError(f"ports end at {LARGEST_PORT}")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(f"Nothing can listen at {host}{f':{port}' if port else ''}: {why}.") from error


def url_of(host: str, port: int) -> str:
    """The address of a server, without a path."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
