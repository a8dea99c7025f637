"""report.html: what a run did to its model, told to whoever has to decide whether to use it."""

from manners.errors import MannersError

try:
    from manners.report.page import build_report, write_report
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MannersError('the report draws its figures with matplotlib; pip install "manners[train]"') from None

__all__ = ["build_report", "write_report"]
