"""Skeletons of new components: correct, simple instances to be changed.

One file per kind, with the text of the component (``COMPONENT``), the imports of its hand-worked case
(``IMPORTS``), the case (``CASE``) and the memory that a file outside the package defines (``MEMORY``). $Name
stands for the class.
"""
