"""A searchable library of moments.

`card` which model made it, `rows` its columns, `guard` one writer and clear complaints, `opening` its tables, `folder` the index itself,
`nearest` a question to it, `plan` how a sense is searched, `optimize` how that is chosen, `exact` what it is measured against, `refresh`
the command.
"""

from cmmixer.indexing.card import IndexCard
from cmmixer.indexing.folder import MomentIndex
from cmmixer.indexing.plan import SearchPlan
from cmmixer.indexing.refresh import IndexReport, index
from cmmixer.indexing.rows import FileRow

__all__ = ["FileRow", "IndexCard", "IndexReport", "MomentIndex", "SearchPlan", "index"]
