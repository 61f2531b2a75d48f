"""A second process that writes words while the test reads them.

Arguments: descriptor, first word, number of words, rounds. In round n every word gets n in both of its halves, one
word after the other, as a worker does it. A reader that sees different halves saw a torn word.
"""

import sys
from mmap import mmap
from os import fstat


def main() -> None:
    fd, first, count, rounds = (int(argument) for argument in sys.argv[1:])
    words = memoryview(mmap(fd, fstat(fd).st_size)).cast("Q")
    for number in range(1, rounds + 1):
        value = number << 32 | number
        for at in range(first, first + count):
            words[at] = value


main()
