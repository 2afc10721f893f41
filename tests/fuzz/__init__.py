"""The project's own fuzzer: random calls, each equal to the definition or refused in a sentence. ``make
fuzz`` runs it."""

from tests.fuzz.call import Call
from tests.fuzz.play import Outcome, play

__all__ = ["Call", "Outcome", "play"]
