"""The ways to run a problem, fastest first; ``auto`` takes the first that does not refuse."""

from ttr.backends.backend import Backend
from ttr.backends.recurrent import Recurrent

BACKENDS: tuple[Backend, ...] = (Recurrent(),)
