"""An endpoint as a program: answers every request with a body of ARGV[1] bytes, closes what rests for ARGV[2] s."""

import socket
import sys
import threading


def serve(connection, body, idle_s):
    connection.settimeout(60.0)  # for the first request of a connection
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    buffer = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0].partition(b":")[2]) if lengths else 0
            while len(buffer) < length:
                buffer += connection.recv(65536)
            buffer = buffer[length:]
            connection.sendall(answer)
            connection.settimeout(idle_s)


def forgiving(connection, body, idle_s):
    try:
        serve(connection, body, idle_s)
    except OSError:
        return


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        accepted, _ = listener.accept()
        arguments = (accepted, b"x" * int(sys.argv[1]), float(sys.argv[2]))
        threading.Thread(target=forgiving, args=arguments, daemon=True).start()
