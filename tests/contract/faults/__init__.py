"""Faults planted one at a time in a copy of the package; the suite must catch every one. One file per family,
each with FAULTS."""

import importlib
import pkgutil

from .fault import Fault

_families = [
    importlib.import_module(f"{__name__}.{family.name}")
    for family in pkgutil.iter_modules(__path__)
    if family.name != "fault"
]
FAULTS: tuple[Fault, ...] = tuple(fault for family in _families for fault in family.FAULTS)
