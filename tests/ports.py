"""Ports for programs that are told a number: kept from everybody else, with no moment in which one could be taken.

A port that is found free and given back is anybody's until the program binds it: the kernel may take it for an outgoing
connection of another test. One that stays bound is not. Both sides set SO_REUSEADDR and this one never listens, so that
the program binds the same port beside it (socket(7)).
"""

import socket


def held_port() -> socket.socket:
    """Return a socket that keeps a port of 127.0.0.1; close it when the program has ended."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock
