"""to_c's module for Fortran: interfaces of the C functions,
kinds, and names of columns.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from fastmlp.export.c_source import CText

# The standard's limit on a name's characters, and what is left for a prefix.
LONGEST_FORTRAN_NAME = 63
LONGEST_PREFIX = 31
# Bytes of a class's name that stand in the module: a line has at most 132 columns.
LONGEST_CLASS = 60
C_KINDS = {4: "c_float", 8: "c_double"}

ONE_ROW = """
        !> The predictions y of one row x.
        subroutine $predict(x, y) &
            bind(c, name="$predict")
            import
            real($kind), intent(in) :: x($inputs)
            real($kind), intent(out) :: y($outputs)
        end subroutine

        !> The predictions of n rows, which are columns here: y(:, i) of x(:, i).
        subroutine $predict_rows(n, x, y) &
            bind(c, name="$predict_rows")
            import
            integer(c_size_t), value :: n
            real($kind), intent(in) :: x($inputs, n)
            real($kind), intent(out) :: y($outputs, n)
        end subroutine
"""
GRADIENT = """
        !> Predictions y, and their derivatives: jacobian(i, j) of y(j) by x(i).
        subroutine $gradient(x, y, jacobian) &
            bind(c, name="$gradient")
            import
            real($kind), intent(in) :: x($inputs)
            real($kind), intent(out) :: y($outputs)
            real($kind), intent(out) :: jacobian($inputs, $outputs)
        end subroutine
"""
CLASS_FUNCTION = """
        integer(c_int) function $class_from_0(x) &
            bind(c, name="$class")
            import
            real($kind), intent(in) :: x($inputs)
        end function
"""
CODE_FUNCTION = """
        integer(c_int) function $code_from_0(column, level) &
            bind(c, name="$code")
            import
            integer(c_int), value :: column
            character(kind=c_char), intent(in) :: level(*)
        end function
"""
OF_CLASS = """
    !> The place of the predicted class in $class_names, from 1.
    integer function $class(x)
        real($kind), intent(in) :: x($inputs)
        $class = int($class_from_0(x)) + 1
    end function
"""
OF_CODE = """
    !> The code of a level, by the place of its column, from 1, and its text; -1: unknown.
    integer function $code(column, level)
        integer, intent(in) :: column
        character(*), intent(in) :: level
        $code = int($code_from_0( &
            int(column - 1, c_int), trim(level) // c_null_char))
    end function
"""


def module_of(source: CText, file: str, module: str) -> str:
    """The text of a module that binds to the functions of a C file.

    Parameters
    ----------
    source : the text of the C file, by parts
    file, module : str, names of the C file and of the module's file, for the comment
    """
    parts = source.parts
    public = ["$kind", "$inputs", "$outputs", "$predict", "$predict_rows"]
    interfaces = [ONE_ROW]
    procedures = list[str]()
    constants = [
        f"integer, parameter :: $kind = {C_KINDS[np.dtype(source.number).itemsize]}",
        f"integer, parameter :: $inputs = {parts.n_features}",
        f"integer, parameter :: $outputs = {parts.n_outputs}",
    ]
    places = _places(parts.feature_names, LONGEST_FORTRAN_NAME - len(source.prefix))
    if places:
        constants.append("! The places of the columns in a row.")
        for i, name in enumerate(places):
            constants.append(f"integer, parameter :: {name} = {i + 1}")
        public += places
    if parts.classes is not None:
        constants += _class_names(parts.classes)
        public += ["$class", "$class_names"]
        interfaces.append(CLASS_FUNCTION)
        procedures.append(OF_CLASS)
    if source.gradient:
        interfaces.append(GRADIENT)
        public.append("$gradient")
    if getattr(source, "looks_up", False):
        interfaces.append(CODE_FUNCTION)
        procedures.append(OF_CODE)
        public.append("$code")
    lines = [
        f"! Predictions of {_shown(file)}, from Fortran:",
        f"!     cc -O3 -march=native -D$IMPLEMENTATION -c -x c {_shown(file)} -o net.o",
        f"!     gfortran {_shown(module)} main.f90 net.o -lm",
        f"module {source.prefix}",
        "    use, intrinsic :: iso_c_binding, only: &",
        "        c_char, c_double, c_float, c_int, c_null_char, c_size_t",
        "    implicit none",
        "    private",
        *(f"    public :: {name}" for name in public),
        "",
        *(f"    {line}" for line in constants),
        "",
        "    interface" + "".join(interfaces).rstrip(),
        "    end interface",
    ]
    if procedures:
        lines += ["", "contains" + "".join(procedures).rstrip()]
    lines += [f"end module {source.prefix}", ""]
    return source.named("\n".join(lines))


def _shown(name: str) -> str:
    """A file's name in a comment, which is one line."""
    return "".join(c for c in name if c.isprintable()).replace("$", "$$")


def _places(names: Iterable[str], most: int) -> list[str]:
    """A name of at most `most` characters for each column.

    Names of Fortran must differ by more than case.
    Five characters are left for a number.
    """
    places: list[str] = []
    for name in names:
        word = re.sub(r"\W", "_", name, flags=re.ASCII).lower()
        first = f"$x_{word}"[: most - 5]
        place = first
        n = 1
        while place in places:
            n += 1
            place = f"{first}_{n}"
        places.append(place)
    return places


def _class_names(classes: Sequence[object]) -> list[str]:
    """The lines of an array of texts, all of one length."""
    texts = list[str]()
    longest = 1
    for name in classes:
        shown = "".join(c if c.isprintable() else "?" for c in str(name))
        cut = shown.encode(errors="replace")[:LONGEST_CLASS]
        longest = max(longest, len(cut))
        text = cut.decode(errors="ignore")
        texts.append(text.replace("$", "$$").replace('"', '""'))
    lines = [
        f"character({longest}), parameter :: $class_names({len(texts)}) = [ &",
        f"    character({longest}) :: &",
    ]
    lines += [f'    "{text}", &' for text in texts[:-1]]
    return [*lines, f'    "{texts[-1]}"]']
