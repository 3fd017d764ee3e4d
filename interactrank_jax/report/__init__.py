"""A report on runs: one HTML page that needs nothing else, for a browser without a network.

Data flows one way: `evaluations.py` and `online.py` read what is stored, `data.py` puts it together
as JSON; of that `results.py`, `model.py` and `online_section.py` make sections, out of `charts.py`
and `tables.py`, and `page.py` writes them.
"""
