"""Requests byte by byte: what no well-behaved client sends."""

import socket
from contextlib import suppress

import httpx

from tests.server import Server


def connect(server: Server) -> socket.socket:
    address = httpx.URL(server.url)
    return socket.create_connection((address.host, address.port), timeout=20)


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


def read(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(2**16):
            received += chunk
    return received


def exchange(server: Server, data: bytes) -> bytes:
    """Send as much as the server takes; give everything that it answers until it closes."""
    with connect(server) as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
        return read(connection)
