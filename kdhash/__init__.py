"""kdhash: small binary codes that search like big models.

One river, room by room: data -> teachers -> models -> methods -> training -> retrieval -> report.
Letters used in shapes: batch, bits, classes, width (of a feature), teachers, query and database (counts of items).
"""

__version__ = "0.3.0"
