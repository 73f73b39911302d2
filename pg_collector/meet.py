"""Types that several threads read data into, known to msgspec before they do.

msgspec 0.22 works out what a struct is made of when it first reads one, and crashes the process
where two threads do that for the same type at once. Whoever reads a type in more than one thread
has it met where the module is loaded, which one thread does.
"""

import msgspec


def meet(*types: type[msgspec.Struct]) -> None:
    """Have msgspec work out these types, and those that their fields are of."""
    for one in types:
        msgspec.json.Decoder(one)
