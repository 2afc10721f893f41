"""Skeletons of new components: correct, simple instances to be changed.

One file per kind, with the text of the component (``COMPONENT``), the imports of its hand-worked case
(``IMPORTS``), the case (``CASE``) and the memory that a file of one's own defines (``MEMORY``). $Name is the
class.
"""
