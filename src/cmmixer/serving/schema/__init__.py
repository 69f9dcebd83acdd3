"""What travels over HTTP, for the service and its Python client alike. Times in seconds from a file's beginning."""

from cmmixer.serving.schema.access import (
    Health,
    SessionOrder,
    Welcome,
)
from cmmixer.serving.schema.base import (
    Id,
    Kind,
    Moment,
    Problem,
    Seconds,
    Sense,
    Text,
)
from cmmixer.serving.schema.filters import (
    Filters,
    ListQuery,
    Order,
    SearchQuery,
)
from cmmixer.serving.schema.jobs import (
    Job,
    JobList,
    JobOrder,
    JobReport,
    Skipped,
    State,
)
from cmmixer.serving.schema.library import (
    Column,
    Facet,
    Folder,
    FolderListing,
    Item,
    ItemDetail,
    ItemPage,
    Library,
    Peaks,
    Playback,
)
from cmmixer.serving.schema.search import (
    Hit,
    Query,
    SearchPage,
    Stretch,
)
from cmmixer.serving.schema.taking import (
    CutListOrder,
    CutMoment,
    Dub,
    DubOrder,
    Source,
)

__all__ = [
    "Column",
    "CutListOrder",
    "CutMoment",
    "Dub",
    "DubOrder",
    "Facet",
    "Filters",
    "Folder",
    "FolderListing",
    "Health",
    "Hit",
    "Id",
    "Item",
    "ItemDetail",
    "ItemPage",
    "Job",
    "JobList",
    "JobOrder",
    "JobReport",
    "Kind",
    "Library",
    "ListQuery",
    "Moment",
    "Order",
    "Peaks",
    "Playback",
    "Problem",
    "Query",
    "SearchPage",
    "SearchQuery",
    "Seconds",
    "Sense",
    "SessionOrder",
    "Skipped",
    "Source",
    "State",
    "Stretch",
    "Text",
    "Welcome",
]
