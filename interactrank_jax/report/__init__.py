"""A report on runs: one HTML page that needs nothing else, for a browser without a network.

Data flows one way: `evaluations.py` and `online.py` read what is stored, `data.py` puts it together
as JSON, `charts.py` and `tables.py` draw that, `sections.py` orders it and `page.py` writes it.
"""
