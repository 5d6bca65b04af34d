"""Replays an export onto an image, written from the layout of the kernel's dm-log-writes alone. usage: LOG IMAGE"""
import struct
import sys

FLUSH, FUA, DISCARD, MARK, METADATA = 1, 2, 4, 8, 16

with open(sys.argv[1], "rb") as log, open(sys.argv[2], "r+b") as image:
    magic, version, entries, sector_size = struct.unpack("<QQQI", log.read(28))
    assert magic == 0x6A736677736872, hex(magic)
    assert version == 1, version
    assert sector_size == 512, sector_size
    assert log.read(sector_size - 28) == bytes(sector_size - 28)
    seen = {FLUSH: 0, FUA: 0, DISCARD: 0, MARK: 0}
    for number in range(entries):
        head = log.read(sector_size)
        sector, sectors, flags, own = struct.unpack_from("<QQQQ", head)
        assert flags & ~(FLUSH | FUA | DISCARD | MARK | METADATA) == 0, flags
        assert flags != 0 or sectors != 0, f"entry {number} says nothing"
        if not flags & MARK:
            assert own == 0, f"entry {number} has {own} bytes of its own"
            assert head[32:] == bytes(sector_size - 32)
        for flag in seen:
            seen[flag] += bool(flags & flag)
        image.seek(sector * sector_size)
        if flags & DISCARD:
            image.write(bytes(sectors * sector_size))
        elif sectors > 0:
            data = log.read(sectors * sector_size)
            assert len(data) == sectors * sector_size, f"entry {number} is cut short"
            image.write(data)
    assert log.read(1) == b"", "something follows the last entry"
    print(entries, *seen.values())
