"""Objects on their way to a worker: pickled, but for the arrays that several groups share."""

import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any


def pack(content: Any, shared: Sequence[Any]) -> tuple[bytes, list[int]]:
    """Return an object as bytes, and the places in `shared` of what it holds of them.

    What is shared is known by its identity, and is not part of the bytes. Functions of the user's
    program go along as code.
    """
    from cloudpickle import Pickler

    places = {id(each): i for i, each in enumerate(shared)}
    found: dict[int, None] = {}

    class Sharing(Pickler):  # type: ignore[misc, unused-ignore]
        def persistent_id(self, given: Any) -> int | None:
            place = places.get(id(given))
            if place is not None:
                found[place] = None
            return place

    file = io.BytesIO()
    Sharing(file, protocol=pickle.HIGHEST_PROTOCOL).dump(content)
    return file.getvalue(), list(found)


def unpack(packed: bytes, shared: Mapping[int, Any]) -> Any:
    """Return the object; `shared` are the arrays at their places."""

    class Sharing(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Any:
            return shared[place]

    return Sharing(io.BytesIO(packed)).load()
