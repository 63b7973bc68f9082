"""Where everything that must outlive the server is kept: rows in, domain objects out.

`Store` reads and writes; the questions are plain functions over a connection, one module per thing (`agents`,
`sessions`, `sandboxes`, `responses`, `conversations`, …). The database library appears nowhere else in Cupola.
"""

from cupola.store.paging import Page, PageOf
from cupola.store.store import Store

__all__ = ["Page", "PageOf", "Store"]
