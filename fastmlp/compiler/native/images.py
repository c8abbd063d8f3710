"""Images: ELF objects of x86-64 and aarch64,
linked so that they run wherever they lie.
"""

import struct
from typing import Any, NamedTuple


class _Section(NamedTuple):
    """A section of an ELF object, by the fields of its header."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


_BITS = 1
_SYMBOLS = 2
_RELOCATIONS = 4
_ALLOCATED = 2
# Tables for unwinding, which C++ reads.
_UNWINDING = b".eh_frame"


class _Form(NamedTuple):
    """How the objects of an architecture refer to places,
    by the numbers of their relocations.

    Attributes
    ----------
    distances : from one place to another, by struct's letter
    calls : of functions, in the object or outside of it
    slots : distances to the slot of a function outside
    jump : the instructions after a slot that jump to the address in it
    """

    distances: dict[int, str]
    calls: tuple[int, ...]
    slots: tuple[int, ...]
    jump: bytes


# By ELF's number of the architecture.
_FORMS = {
    62: _Form(
        distances={2: "<i", 4: "<i", 9: "<i", 24: "<q", 41: "<i", 42: "<i"},
        calls=(4,),
        slots=(9, 41, 42),
        jump=bytes.fromhex("ff25 f2ffffff 0000"),
    ),
    # ldr x16, the slot; br x16
    183: _Form(
        distances={260: "<q", 261: "<i"},
        calls=(282, 283),
        slots=(),
        jump=bytes.fromhex("d0ffff58 00021fd6"),
    ),
}
# Arm's instructions take an address in two parts: its page, and its place in the page
# by the unit of what is loaded, here as powers of 2. Images begin with a page.
_PAGE = 275
_IN_PAGE = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}


def _set_bits(image: bytearray, place: int, word: int, first: int, n: int) -> None:
    """Write the lowest n bits of a word into the instruction at a place, from a bit
    on.
    """
    (old,) = struct.unpack_from("<I", image, place)
    bits = (1 << n) - 1
    struct.pack_into(
        "<I", image, place, old & ~(bits << first) | (word & bits) << first
    )


def _refer(image: bytearray, form: _Form, kind: int, place: int, to: int) -> None:
    """Let what lies at a place refer to another place."""
    if kind in form.distances:
        struct.pack_into(form.distances[kind], image, place, to - place)
    elif kind in form.calls:
        _set_bits(image, place, (to - place) >> 2, 0, 26)
    elif kind == _PAGE:
        pages = (to >> 12) - (place >> 12)
        _set_bits(image, place, pages, 29, 2)
        _set_bits(image, place, pages >> 2, 5, 19)
    elif kind in _IN_PAGE:
        _set_bits(image, place, (to & 0xFFF) >> _IN_PAGE[kind], 10, 12)
    else:
        raise ValueError(f"a relocation of kind {kind}")


class _Object:
    """An ELF object's sections and symbols."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        (architecture,) = struct.unpack_from("<H", content, 18)
        (start,) = struct.unpack_from("<Q", content, 40)
        n, of_names = struct.unpack_from("<HH", content, 60)
        self.form = _FORMS[architecture]
        headers = (
            struct.unpack_from("<IIQQQQIIQQ", content, start + 64 * i) for i in range(n)
        )
        self.sections = [_Section(*header) for header in headers]
        self._names = self.sections[of_names].offset
        table = next(each for each in self.sections if each.kind == _SYMBOLS)
        self._symbol_names = self.sections[table.link].offset
        self.symbols = [
            struct.unpack_from("<IBBHQQ", content, table.offset + i)
            for i in range(0, table.size, table.entry_size)
        ]

    def _text(self, first: int) -> bytes:
        return self.content[first : self.content.index(b"\0", first)]

    def name_of(self, symbol: Any) -> str:
        return self._text(self._symbol_names + symbol[0]).decode()

    def is_kept(self, section: _Section) -> bool:
        """Return True for code and constants."""
        is_code = section.kind == _BITS and bool(section.flags & _ALLOCATED)
        return is_code and self._text(self._names + section.name) != _UNWINDING


def link_object(content: bytes, symbol: str) -> tuple[dict[str, Any], bytes]:
    """An image of an ELF object,
    and the offsets of this function of it and of the slots.
    """
    made = _Object(content)
    form, sections = made.form, made.sections
    image = bytearray()
    places = dict[int, int]()
    for i, section in enumerate(sections):
        if made.is_kept(section):
            image += bytes(-len(image) % max(section.align, 1))
            places[i] = len(image)
            image += content[section.offset : section.offset + section.size]
    slots: dict[str, int] = {}
    image += bytes(-len(image) % 8)

    def slot_of(name: str) -> int:
        """Return the offset of a function's slot; a jump to its address follows."""
        if name not in slots:
            slots[name] = len(image)
            image.extend(bytes(8) + form.jump)
        return slots[name]

    for section in sections:
        if section.kind != _RELOCATIONS or section.info not in places:
            continue
        for i in range(0, section.size, section.entry_size):
            offset, info, addend = struct.unpack_from(
                "<QQq", content, section.offset + i
            )
            entry = made.symbols[info >> 32]
            kind = info & 0xFFFFFFFF
            is_outside = entry[3] == 0
            if entry[3] in places and kind not in form.slots:
                to = places[entry[3]] + entry[4]
            elif is_outside and kind in form.slots:
                to = slot_of(made.name_of(entry))
            elif is_outside and kind in form.calls:
                to = slot_of(made.name_of(entry)) + 8
            else:
                name = made.name_of(entry)
                raise ValueError(f"a relocation of kind {kind} to {name!r}")
            place = places[section.info] + offset
            _refer(image, form, kind, place, to + addend)
    main = next(each for each in made.symbols if made.name_of(each) == symbol)
    return {"entry": places[main[3]] + main[4], "slots": slots}, bytes(image)
