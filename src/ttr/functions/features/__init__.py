"""Feature maps of linear functions. One public class per file; each is an attribute of this
package."""

from ttr.registry import exports

__getattr__, __dir__ = exports(__name__)
