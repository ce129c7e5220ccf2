"""The house counted: `python -m benchmarks.house`. Everything is read from the source (`ast`) and from git; nothing is imported.

    source.py     the files, functions, classes and imports of src/trimodal
    docstrings.py who says shapes, what is raised, units, sources
    borders.py    tests on an edit's kind, imports of one method, imports inside functions
    costs.py      what a new score, grid, method, edit, family, export format or data source touches
    page.py       the counts and the picture in docs/architecture.md
"""
