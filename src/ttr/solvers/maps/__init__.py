"""Maps between the accumulated gradients of a matrix and the matrix that is read. One public class per file;
each is an attribute of this package."""

from ttr.registry import exports

__getattr__, __dir__ = exports(__name__)
